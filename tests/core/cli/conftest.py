"""Commands run in this process, and a model that they can use."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import topwork
from topwork.cli import main

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"

#: Runs a command line and returns its exit code, standard output and standard error.
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``topwork`` with arguments, as the console script does."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["topwork", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        said = capsys.readouterr()
        return int(leaving.value.code or 0), said.out, said.err

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model, trained for two epochs on the synthetic reviews."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    settings = ["training.epochs=2", "tracking.enabled=false"]
    topwork.train(topwork.load_experiment(QUICKSTART, settings), output=folder)
    return folder
