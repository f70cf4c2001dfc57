"""The bar of trainings counts those that are finished, and says of each that failed why."""

import pytest
from rich.live import Live

from topwork.cli.show_trainings import TrainingsBar
from topwork.cli.tables import console
from topwork.lab.study.result import State, TrialSummary


def trial(number: int, state: State = "complete", reason: str = "") -> TrialSummary:
    return TrialSummary(number, state, {}, (0.5,), reason)


def test_finished_trainings_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(console=console, transient=True) as live:
        bar = TrainingsBar(live)
        bar.trials([], 2, 5)
        bar.trials([trial(0), trial(1)], 2, 5)
        (task,) = bar.progress.tasks
        assert (task.completed, task.total) == (2, 5)


def test_a_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(console=console, transient=True) as live:
        bar = TrainingsBar(live)
        for _ in range(2):
            bar.trials([trial(0), trial(1, "failed", "no more memory")], 1, 5)
    assert capsys.readouterr().out.count("training 1 failed: no more memory") == 1
