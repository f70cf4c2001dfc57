"""The book of a study's trials, in Optuna's storage: who trains what, what came of it, and what is left to do.

A trial counts when it is complete, pruned, or failed for a reason of its own. One whose process died, or was asked to
stop, is lost: it fails without a reason, and another trial takes up its values. So however often processes are
killed, a study ends with as many trials as were asked for, none of them trained to its end twice.
"""

import itertools
import json
import math
import random
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from topwork.engine.comparison import differing
from topwork.engine.model import derive_seed
from topwork.errors import ConfigurationError
from topwork.experiment.search import Label, Searched
from topwork.experiment.study import Study
from topwork.lab.processes import is_dead_here, this_process
from topwork.lab.study.result import State
from topwork.lab.study.samplers import make_pruner, make_sampler
from topwork.lab.study.storage import locked, shown

#: How often a trial is taken up again after its process died, before it counts as failed.
DEATHS = 3

#: After so many failures in a row a study ends.
FAILURES = 5

STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

#: Names of what is noted about a study and its trials.
IDENTITY, ID, PARENT = "topwork.identity", "topwork.id", "topwork.mlflow_run"
PROCESS, REASON, LOST, RETRY_OF, DIED, RUN = "process", "reason", "lost", "retry_of", "deaths", "mlflow_run"


class Ledger:
    """A study's trials, shared with every process that works on it.

    Attributes:
        since: seconds since 1970; only failures after it count as failures in a row.
    """

    def __init__(
        self, study: optuna.Study, storage: RDBStorage, settings: Study, searched: Sequence[Searched], *, epochs: int
    ) -> None:
        self.study = study
        self.storage = storage
        self.settings = settings
        self.searched = searched
        self.since = time.time()
        self.study.pruner = make_pruner(settings, epochs)

    def ask(self, *, deadline: float | None = None) -> optuna.Trial | None:
        """Begin a trial; None where no more are wanted, or not now. After the deadline there is one at most in all."""
        with locked(self.storage):
            self.sweep()
            trials = self.trials()
            taken = len(finished_of(trials)) + sum(trial.state == TrialState.RUNNING for trial in trials)
            late = deadline is not None and time.time() > deadline
            if (late and taken) or taken >= self.wanted or self.failures_in_a_row(trials) >= FAILURES:
                return None
            if self.settings.sampler == "grid" and not any(trial.state == TrialState.WAITING for trial in trials):
                self.study.enqueue_trial(self._next_point(trials))
            # The seed depends on how far the study is: whoever asks, and after whatever interruption, nothing repeats.
            self.study.sampler = make_sampler(self.settings, derive_seed(0, self.study.study_name, str(len(trials))))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Heartbeat of storage")  # they are recorded by the worker
                trial = self.study.ask()
            self.beat(trial.number)
            trial.set_user_attr(PROCESS, this_process())
            for searched in self.searched:
                suggest(trial, searched)
        if trial.user_attrs.get(DIED, 0) >= DEATHS:
            self.fail(trial, f"its process died {DEATHS} times, perhaps for want of memory")
            return self.ask(deadline=deadline)
        return trial

    def complete(self, trial: optuna.Trial, values: Sequence[float]) -> None:
        """Note a trial's values."""
        self.study.tell(trial, list(values), skip_if_finished=True)

    def prune(self, trial: optuna.Trial) -> None:
        """Note that a trial was ended early."""
        self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Note that a trial failed, and why."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def lose(self, trial: optuna.Trial) -> None:
        """Note that a trial was interrupted, so that it is taken up again."""
        trial.set_user_attr(LOST, "interrupted")
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def beat(self, number: int) -> None:
        """Give a sign of life for a trial, so that other machines know that it is being trained."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        self.storage.record_heartbeat(self.storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def take_up_failures(self) -> None:
        """Give trials another chance whose failures ended the study: whoever goes on has mended something.

        That is five in a row, or all trials of a smaller study.
        """
        with locked(self.storage):
            finished = self.finished()
            streak = failures_at_the_end(finished)
            if len(streak) < FAILURES and not len(streak) == len(finished) >= self.wanted:
                return
            for trial in streak:
                self.study.enqueue_trial(dict(trial.params), user_attrs={RETRY_OF: trial.number})

    def sweep(self) -> None:
        """Fail the trials of dead processes and see to it that all that are lost are taken up again.

        Call it where nobody else hands out trials. Whoever is killed in here leaves nothing that the next sweep
        would not mend.
        """
        for trial in self.trials():
            owner = trial.user_attrs.get(PROCESS)
            if trial.state == TrialState.RUNNING and (owner is None or is_dead_here(owner)):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        trials = self.trials()
        taken_up = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if is_lost(trial) and trial.number not in taken_up and values.keys() == self._names:
                deaths = trial.user_attrs.get(DIED, 0) + (LOST not in trial.user_attrs)
                self.study.enqueue_trial(values, user_attrs={RETRY_OF: trial.number, DIED: deaths})

    @property
    def id(self) -> str:
        """What tells this study from others of its name in other databases."""
        return str(self.study.user_attrs[ID])

    @property
    def wanted(self) -> int:
        """How many trials count at the end; of a grid, no more than it has points."""
        return wanted_of(self.settings, self.searched)

    def trials(self) -> list[FrozenTrial]:
        """All trials, the lost and the waiting ones too."""
        return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """The trials that count."""
        return finished_of(self.trials())

    def running(self) -> list[FrozenTrial]:
        """The trials that are being trained."""
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def states(self) -> dict[int, str]:
        """The state of every trial that was begun: complete, pruned, failed, lost or running."""
        states: dict[int, str] = {}
        for trial in self.trials():
            if counts(trial):
                states[trial.number] = STATES[trial.state]
            elif trial.state != TrialState.WAITING:
                states[trial.number] = "lost" if is_lost(trial) else "running"
        return states

    def failures_in_a_row(self, trials: Sequence[FrozenTrial]) -> int:
        """How many of the trials that finished last failed, since this began."""
        return len(failures_at_the_end([trial for trial in finished_of(trials) if ended(trial) >= self.since]))

    @property
    def _names(self) -> set[str]:
        return {searched.name for searched in self.searched}

    def _next_point(self, trials: Sequence[FrozenTrial]) -> dict[str, Label]:
        """Return a point of the grid that no trial has, in an order that goes everywhere early."""
        tried = [trial.params for trial in trials]
        size = math.prod(map(points_of, self.searched))
        for index in random.Random(self.study.study_name).sample(range(size), min(size, len(trials) + 1)):
            point = {}
            for searched in self.searched:
                index, place = divmod(index, points_of(searched))
                point[searched.name] = point_of(searched, place)
            if point not in tried:
                return point
        raise AssertionError("there are more points than trials")


def wanted_of(settings: Study, searched: Sequence[Searched]) -> int:
    """How many trials count at the end of a study; of a grid, no more than it has points."""
    return min(settings.trials, math.prod(map(points_of, searched))) if settings.sampler == "grid" else settings.trials


def open_ledger(
    storage: RDBStorage,
    name: str,
    settings: Study,
    searched: Sequence[Searched],
    *,
    identity: Mapping[str, str],
    rising: Sequence[bool],
    epochs: int,
) -> Ledger:
    """Begin a study, or go on with one.

    Args:
        identity: what must not change while a study goes on, in words.
        rising: for each objective, whether greater is better.
        epochs: of a trial, all seeds together.

    Raises:
        ConfigurationError: it was begun with another experiment, search or objective; says what differs.
    """
    directions: list[Literal["maximize", "minimize"]] = ["maximize" if up else "minimize" for up in rising]
    given = {
        **identity,
        **{f"direction of {text}": way for text, way in zip(settings.objectives, directions, strict=True)},
    }
    with locked(storage):
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        trials = study.get_trials(deepcopy=False)
        if IDENTITY not in study.user_attrs and not trials:
            study.set_user_attr(ID, secrets.token_hex(8))
            study.set_user_attr(IDENTITY, json.dumps(given))
        _check_identity(study, given, shown(storage.url))
        if not trials:
            study.enqueue_trial({searched.name: searched.own for searched in searched})
    return Ledger(study, storage, settings, searched, epochs=epochs)


def load_ledger(
    storage: RDBStorage, name: str, settings: Study, searched: Sequence[Searched], *, epochs: int
) -> Ledger:
    """Join a study that another process has opened."""
    study = optuna.load_study(study_name=name, storage=storage)
    return Ledger(study, storage, settings, searched, epochs=epochs)


def finished_of(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count, without failed ones that were given another chance."""
    taken_up = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if counts(trial) and trial.number not in taken_up]


def failures_at_the_end(finished: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that failed since the last that did not."""
    latest_first = sorted(finished, key=ended, reverse=True)
    return list(itertools.takewhile(lambda trial: trial.state == TrialState.FAIL, latest_first))[::-1]


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for, and finished."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or (
        trial.state == TrialState.FAIL and REASON in trial.user_attrs
    )


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended through no fault of its own."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def ended(trial: FrozenTrial) -> float:
    """When a trial ended, in seconds since 1970."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def suggest(trial: optuna.Trial, searched: Searched) -> Label:
    """Choose a value of one setting for a trial."""
    dimension = searched.dimension
    if dimension.choices is not None:
        chosen: Label = trial.suggest_categorical(searched.name, list(searched.labels))
        return chosen
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None and high is not None
    if searched.integer:
        return trial.suggest_int(searched.name, int(low), int(high), step=int(step or 1), log=dimension.log)
    return trial.suggest_float(searched.name, low, high, step=step, log=dimension.log)


def values_of(params: Mapping[str, Any], searched: Sequence[Searched]) -> dict[str, Any]:
    """Return the values of a trial by path."""
    return {one.path: one.value(params[one.name]) for one in searched}


def points_of(searched: Searched) -> int:
    """How many values a grid has of one setting."""
    dimension = searched.dimension
    if dimension.choices is not None:
        return len(dimension.choices)
    assert dimension.low is not None and dimension.high is not None and dimension.step is not None
    return round((dimension.high - dimension.low) / dimension.step) + 1


def point_of(searched: Searched, number: int) -> Label:
    """Return one of the values that a grid has of one setting, from 0."""
    dimension = searched.dimension
    if dimension.choices is not None:
        return list(searched.labels)[number]
    assert dimension.low is not None and dimension.step is not None
    point = float(f"{dimension.low + number * dimension.step:.12g}")  # without the dust of adding
    return int(point) if searched.integer else point


def _check_identity(study: optuna.Study, given: Mapping[str, str], where: str) -> None:
    """Check that a study that goes on is the one that was begun.

    Raises:
        ConfigurationError: it is not.
    """
    name = study.study_name
    if IDENTITY not in study.user_attrs:
        raise ConfigurationError(f"{where} has a study {name!r} that topwork did not begin; set another study.name")
    changes = differing([json.loads(study.user_attrs[IDENTITY]), given])
    if changes:
        lines = [
            f"{what}: {before or 'nothing'} then, {now or 'nothing'} now" for what, (before, now) in changes.items()
        ]
        told = "\n".join([f"study {name!r} in {where} was begun with other settings:", *lines])
        raise ConfigurationError(f"{told}\nset another study.name to begin anew, or change these back to go on")
