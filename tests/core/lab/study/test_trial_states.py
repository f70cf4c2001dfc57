"""Which trials count, which were interrupted, and how many failed at last."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from topwork.lab.study.trial_states import (
    REASON,
    RETRY_OF,
    end_time,
    finished_trials,
    is_finished,
    is_interrupted,
    trailing_failures,
)

BEGINNING = datetime(2026, 1, 1)

FAILED = {REASON: "it diverged"}


def trial(number: int, state: TrialState, *, ended: int | None = None, **attributes: Any) -> FrozenTrial:
    """A trial that ended so many seconds after the beginning; without that, after ``number`` seconds."""
    made = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs=attributes)
    made.number = number
    if state.is_finished():
        made.datetime_complete = BEGINNING + timedelta(seconds=number if ended is None else ended)
    return made


@pytest.mark.parametrize(
    ("state", "attributes", "finished", "interrupted"),
    [
        (TrialState.COMPLETE, {}, True, False),
        (TrialState.PRUNED, {}, True, False),
        (TrialState.FAIL, FAILED, True, False),
        (TrialState.FAIL, {REASON: ""}, True, False),
        (TrialState.FAIL, {}, False, True),
        (TrialState.RUNNING, {}, False, False),
        (TrialState.WAITING, {}, False, False),
    ],
)
def test_a_trial_is_finished_or_interrupted_or_neither(
    state: TrialState, attributes: dict[str, str], finished: bool, interrupted: bool
) -> None:
    one = trial(0, state, **attributes)
    assert (is_finished(one), is_interrupted(one)) == (finished, interrupted)


def test_a_failed_trial_that_was_queued_again_does_not_count() -> None:
    trials = [
        trial(0, TrialState.COMPLETE),
        trial(1, TrialState.FAIL, **FAILED),
        trial(2, TrialState.FAIL, **FAILED),
        trial(3, TrialState.FAIL),
        trial(4, TrialState.WAITING, **{RETRY_OF: 2}),
    ]
    assert [one.number for one in finished_trials(trials)] == [0, 1]


def test_failures_in_a_row_are_counted_in_the_order_of_their_end() -> None:
    trials = [
        trial(0, TrialState.FAIL, ended=50, **FAILED),
        trial(1, TrialState.FAIL, ended=10, **FAILED),
        trial(2, TrialState.COMPLETE, ended=20),
        trial(3, TrialState.FAIL, ended=40, **FAILED),
    ]
    assert [one.number for one in trailing_failures(trials)] == [3, 0]
    assert trailing_failures([*trials, trial(4, TrialState.PRUNED, ended=60)]) == []
    assert trailing_failures([]) == []


def test_a_trial_that_has_not_ended_ended_never() -> None:
    assert end_time(trial(5, TrialState.COMPLETE)) == BEGINNING.timestamp() + 5
    assert end_time(trial(5, TrialState.RUNNING)) == 0.0
