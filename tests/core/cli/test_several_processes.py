"""With torchrun the main process alone prints, and only what trains can be run."""

import sys

import pytest

from topwork.cli import several_processes
from topwork.cli.several_processes import check_command, main_process_prints
from topwork.errors import ConfigurationError


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the second of two processes."""
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    monkeypatch.setattr(several_processes, "GRACE", 0.0)


@pytest.mark.usefixtures("as_process")
def test_commands_that_each_process_would_do_again_are_refused() -> None:
    for name in ("train", "resume", None):
        check_command(name)
    with pytest.raises(ConfigurationError, match="topwork plan cannot be run with torchrun: each of 2 processes would"):
        check_command("plan")
    with pytest.raises(ConfigurationError, match=r"for several workers set study\.workers"):
        check_command("study")


def test_without_torchrun_every_command_runs() -> None:
    check_command("study")


@pytest.mark.usefixtures("as_process")
def test_another_process_prints_nothing_where_all_goes_well(capsys: pytest.CaptureFixture[str]) -> None:
    with main_process_prints():
        print("a result")
        print("a warning", file=sys.stderr)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("as_process")
def test_another_process_that_fails_alone_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), main_process_prints():
        print("a result")
        print("error: the file is not there\nsee above", file=sys.stderr)
        raise SystemExit(3)
    assert capsys.readouterr() == ("", "process 1: error: the file is not there\nprocess 1: see above\n")


@pytest.mark.usefixtures("as_process")
def test_another_process_that_a_signal_ends_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), main_process_prints():
        print("what is done is kept", file=sys.stderr)
        raise SystemExit(143)
    assert capsys.readouterr() == ("", "")


def test_the_main_process_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with main_process_prints():
        print("a result")
    assert capsys.readouterr().out == "a result\n"
