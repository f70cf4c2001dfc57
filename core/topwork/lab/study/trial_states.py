"""What became of a trial, as Optuna's storage has it.

A trial is finished when it is complete, pruned, or failed for a reason of its own. One whose process died, or was
asked to stop, was interrupted: it fails without a reason, and another trial is given its parameters. A duplicate was
given the parameters of another trial: it fails before it is trained, and counts for nothing.
"""

import itertools
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from topwork.lab.study.result import State

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

#: Names of the user attributes of a study, as they are stored.
IDENTITY, ID, PARENT_RUN = "topwork.identity", "topwork.id", "topwork.mlflow_run"

#: Names of the user attributes of a trial, as they are stored; some have another word than the code: databases keep it.
PROCESS, REASON, INTERRUPTED, RETRY_OF, CRASHES, RUN, DUPLICATE, NOTES = (
    "process",
    "reason",
    "lost",
    "retry_of",
    "deaths",
    "mlflow_run",
    "duplicate",
    "notes",
)


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for, and came to its end."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or (
        trial.state == TrialState.FAIL and REASON in trial.user_attrs
    )


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended before its end, because its process died or was asked to stop."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs and DUPLICATE not in trial.user_attrs


def finished_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished ones of all trials, without failed ones that were queued again."""
    queued_again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if is_finished(trial) and trial.number not in queued_again]


def trailing_failures(finished: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that failed since the last that did not."""
    latest_first = sorted(finished, key=end_time, reverse=True)
    return list(itertools.takewhile(lambda trial: trial.state == TrialState.FAIL, latest_first))[::-1]


def end_time(trial: FrozenTrial) -> float:
    """When a trial ended, in seconds since 1970; 0 where it has not."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0
