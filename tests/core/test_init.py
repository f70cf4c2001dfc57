"""The public names of ``topwork`` are the same to type checkers and to Python, and cost nothing until they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import topwork

SOURCE = ast.parse(Path(topwork.__file__).read_text(encoding="utf-8"))


def named_for_type_checkers() -> dict[str, str]:
    """The home of each name that is imported for type checkers alone."""
    (guarded,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    assert ast.unparse(guarded.test) == "TYPE_CHECKING"
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(guarded.body)
    assert all(alias.asname == alias.name for node in imports for alias in node.names), "`as` makes a name public"
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def named_at_run_time() -> dict[str, str]:
    """The home of each name that is imported when it is first used."""
    assignments = [node for node in SOURCE.body if isinstance(node, ast.Assign)]
    (table,) = (node.value for node in assignments if ast.unparse(node.targets[0]) == "_MODULES")
    return {name: f"topwork.{module}" for module, names in ast.literal_eval(table).items() for name in names}


def test_type_checkers_and_python_see_the_same_names_in_the_same_modules() -> None:
    assert named_for_type_checkers() == named_at_run_time()
    assert topwork.__all__ == sorted(named_at_run_time())


@pytest.mark.parametrize(("name", "module"), named_at_run_time().items())
def test_a_public_name_is_what_its_module_has(name: str, module: str) -> None:
    assert getattr(topwork, name) is getattr(sys.modules[module], name)


def test_a_name_that_does_not_exist_is_refused_as_modules_do() -> None:
    with pytest.raises(AttributeError, match=r"^module 'topwork' has no attribute 'trian'$"):
        topwork.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian' from 'topwork'"):
        from topwork import trian  # noqa: F401


def test_the_names_are_listed() -> None:
    assert set(topwork.__all__) <= set(dir(topwork))


@pytest.mark.parametrize("code", ["import topwork", "import topwork; topwork.TopworkError; topwork.did_you_mean"])
def test_what_needs_no_library_loads_none(code: str) -> None:
    heavy = {"torch", "mlflow", "optuna", "transformers", "matplotlib", "pydantic", "pluggy", "sklearn", "numpy"}
    script = f"{code}\nimport sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_plugin_is_registered_without_mlflow_and_optuna() -> None:
    script = "import topwork, sys; assert topwork.discover().problems == []; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"'mlflow'", "'optuna'", "'transformers'", "'matplotlib'"} & set(loaded.stdout.strip("[]\n").split(", "))
