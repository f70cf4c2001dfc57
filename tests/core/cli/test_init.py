"""Asking for help is quick."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from topwork.cli import load_with_seeds
from topwork.registry import discover

Command = Callable[..., tuple[int, str, str]]

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
ASK = "import sys; sys.argv = ['topwork', '--help']\nfrom topwork.cli import main\n"


def test_help_imports_neither_torch_nor_mlflow_nor_transformers() -> None:
    check = (
        "try:\n    main()\nfinally:\n    assert not {'torch', 'mlflow', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    asked = subprocess.run([sys.executable, "-c", ASK + check], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert "predict" in asked.stdout


@pytest.mark.parametrize("module", ["topwork", "topwork.cli"])
def test_python_runs_it_as_a_module(module: str) -> None:
    asked = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "predict" in asked.stdout


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", ASK + "main()"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_import_topwork_imports_neither_torch_nor_mlflow() -> None:
    check = "import sys, topwork; assert not {'torch', 'mlflow', 'transformers'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("name", ["HeadConfig", "train", "load_model", "load_experiment", "discover"])
def test_public_names_are_found_and_listed(name: str) -> None:

    assert callable(getattr(topwork, name))
    assert name in dir(topwork)
    assert name in topwork.__all__


def test_an_unknown_public_name_is_an_attribute_error() -> None:

    with pytest.raises(AttributeError, match="module 'topwork' has no attribute 'trian'"):
        _ = topwork.trian  # type: ignore[attr-defined]  # the point of the test


def test_version_is_that_of_the_package(command: Command) -> None:
    code, out, _ = command("--version")
    assert (code, out) == (0, "0.1.0\n")


@pytest.mark.slow
@pytest.mark.parametrize("debug", [True, False])
def test_debug_shows_the_traceback_of_an_error(debug: bool) -> None:
    command = [sys.executable, "-c", "from topwork.cli import main; main()", *["--debug"] * debug, "plan", "none.yaml"]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 2
    assert ("Traceback (most recent call last):" in asked.stderr) == debug
    assert asked.stderr.endswith(
        "error: none.yaml: an experiment file must be readable UTF-8 text: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("given", "seeds", "expected"),
    [
        ([], 3, (0, 1, 2)),
        (["training.seed=3"], 2, (3, 4)),
        (["training.seeds=[7, 3]"], 2, (7, 3)),
        (["training.seeds=[7, 3]"], 1, (7,)),
        (["training.seeds=[7, 3]"], 4, (7, 3, 8, 9)),
    ],
)
def test_seeds_begin_with_the_experiments_own(given: list[str], seeds: int, expected: tuple[int, ...]) -> None:
    experiment = load_with_seeds(QUICKSTART, given, seeds)
    assert experiment.training.seeds == expected
    written = type(experiment).model_validate(experiment.dump(), context={"registry": discover()})
    assert written.training.seeds == expected
