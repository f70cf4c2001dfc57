"""What a study hands over goes with the error that ended it, and an observer hears what it overrides."""

from pathlib import Path

import pytest

from topwork.errors import StudyError
from topwork.lab.study.result import FailedStudyError, StudyObserver, StudyResult, TrialEvaluation, TrialSummary


def test_an_error_that_ends_a_study_carries_what_was_found() -> None:
    result = StudyResult(
        name="pair", folder=Path(), storage="", objectives=("loss",), maximize=(False,), trials=[], baseline=None,
        best=[], changes={}, files={}, evaluations={}, run_id=None, tracking_uri=None, seconds=0.0,
        encoding_seconds=0.0, warnings=[],
    )  # fmt: skip
    with pytest.raises(StudyError, match="no trial is complete") as caught:
        raise FailedStudyError("no trial is complete", result)
    assert isinstance(caught.value, FailedStudyError)
    assert caught.value.result is result
    assert caught.value.exit_code == 1


class Listener(StudyObserver):
    """Overrides one method of many."""

    def __init__(self) -> None:
        self.running: list[int] = []

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        self.running.append(running)


def test_an_observer_passes_over_what_it_does_not_override() -> None:
    observer = Listener()
    observer.begin("encoding", 10)
    observer.advance(1)
    observer.trials([TrialSummary(0, "complete", {}, (0.5,))], 1, 2)
    assert observer.running == [1]


def test_an_evaluation_without_a_baseline_has_no_gains() -> None:
    assert TrialEvaluation({}).differences == {}
