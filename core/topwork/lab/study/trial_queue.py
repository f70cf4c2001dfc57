"""The queue of a study's trials, in Optuna's storage: who trains what, what came of it, and what is left to do.

Interrupted trials are queued again, so however often processes are killed, a study ends with as many finished trials
as were asked for, none of them trained to its end twice.
"""

import itertools
import json
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from topwork.engine.evaluation.comparison import differing
from topwork.engine.model.seeding import derive_seed
from topwork.errors import ConfigurationError
from topwork.experiment.search import SearchedSetting
from topwork.experiment.study import StudySettings
from topwork.lab.study.samplers import make_pruner, make_sampler
from topwork.lab.study.search_space import count_points, count_trials, suggest
from topwork.lab.study.storage import locked, redacted
from topwork.lab.study.trial_states import (
    CRASHES,
    DUPLICATE,
    ID,
    IDENTITY,
    INTERRUPTED,
    PROCESS,
    REASON,
    RETRY_OF,
    STATES,
    end_time,
    finished_trials,
    is_finished,
    is_interrupted,
    trailing_failures,
)
from topwork.process_name import is_dead_here, this_process

#: How often a trial is queued again after its process died, before it counts as failed.
MAX_CRASHES = 3

#: After so many failures in a row a study ends.
MAX_FAILURES = 5


class TrialQueue:
    """A study's trials, shared with every process that works on it.

    Attributes:
        study: Optuna's.
        since: seconds since 1970; only failures after it count as failures in a row.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        settings: StudySettings,
        search: Sequence[SearchedSetting],
        *,
        epochs: int,
    ) -> None:
        self.study = study
        self.storage = storage
        self.settings = settings
        self.search = search
        self.since = time.time()
        self.study.pruner = make_pruner(settings, epochs)

    def ask(self, *, deadline: float | None = None) -> optuna.Trial | None:
        """Start a trial; None where none is left to start. After the deadline one starts only if the study has none."""
        with locked(self.storage):
            self.reap_stale()
            trials = self.trials()
            taken = len(finished_trials(trials)) + sum(trial.state == TrialState.RUNNING for trial in trials)
            late = deadline is not None and time.time() > deadline
            if (late and taken) or taken >= self.n_trials or self.consecutive_failures(trials) >= MAX_FAILURES:
                return None
            trial = self._ask_untried(trials)
            trial.set_user_attr(PROCESS, this_process())  # last, so that a trial with a process has all its values
        if trial.user_attrs.get(CRASHES, 0) >= MAX_CRASHES:
            self.fail(trial, f"its process died {MAX_CRASHES} times, perhaps for want of memory")
            return self.ask(deadline=deadline)
        return trial

    def complete(self, trial: optuna.Trial, values: Sequence[float]) -> None:
        """Record a trial's values."""
        self.study.tell(trial, list(values), skip_if_finished=True)

    def prune(self, trial: optuna.Trial) -> None:
        """Record that a trial was ended early."""
        self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record that a trial failed, and why."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def mark_interrupted(self, trial: optuna.Trial) -> None:
        """Record that a trial was asked to stop, so that it is queued again."""
        trial.set_user_attr(INTERRUPTED, "interrupted")
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def record_heartbeat(self, number: int) -> None:
        """Let other machines know that a trial is being trained."""
        self.storage.record_heartbeat(self._trial_id(number))

    def requeue_failed(self) -> None:
        """Queue the trials again whose failures ended the study: the user has changed something before resuming it.

        That is five in a row, or all trials of a smaller study.
        """
        with locked(self.storage):
            finished = self.finished()
            failed = trailing_failures(finished)
            if len(failed) < MAX_FAILURES and not len(failed) == len(finished) >= self.n_trials:
                return
            for trial in failed:
                self.study.enqueue_trial(dict(trial.params), user_attrs={RETRY_OF: trial.number})

    def reap_stale(self) -> None:
        """Fail the trials of dead processes, and queue again all that were interrupted.

        Call it while the storage is locked. It may be killed at any point: the next call does what is left.
        """
        for trial in self.trials():
            owner = trial.user_attrs.get(PROCESS)
            if trial.state == TrialState.RUNNING and (owner is None or is_dead_here(owner)):
                if (
                    owner is None
                ):  # its process died before it had all parameters, and BruteForceSampler fails on such trials
                    self._suggest_missing_params(trial.number)
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        trials = self.trials()
        names = {searched.name for searched in self.search}
        queued_again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if is_interrupted(trial) and trial.number not in queued_again and values.keys() == names:
                crashes = trial.user_attrs.get(CRASHES, 0) + (INTERRUPTED not in trial.user_attrs)
                self.study.enqueue_trial(values, user_attrs={RETRY_OF: trial.number, CRASHES: crashes})

    @property
    def id(self) -> str:
        """What tells this study from others of its name in other databases."""
        return str(self.study.user_attrs[ID])

    @property
    def n_trials(self) -> int:
        """How many trials count at the end."""
        return count_trials(self.settings, self.search)

    def trials(self) -> list[FrozenTrial]:
        """All trials, the interrupted and the waiting ones too."""
        return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """The trials that count."""
        return finished_trials(self.trials())

    def running(self) -> list[FrozenTrial]:
        """The trials that are being trained."""
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def states(self) -> dict[int, str]:
        """The state of every trial that was begun: complete, pruned, failed, lost (interrupted) or running."""
        states: dict[int, str] = {}
        for trial in self.trials():
            if is_finished(trial):
                states[trial.number] = STATES[trial.state]
            elif trial.state != TrialState.WAITING and DUPLICATE not in trial.user_attrs:
                states[trial.number] = "lost" if is_interrupted(trial) else "running"
        return states

    def consecutive_failures(self, trials: Sequence[FrozenTrial]) -> int:
        """How many of the trials that finished last failed, since this began."""
        return len(trailing_failures([trial for trial in finished_trials(trials) if end_time(trial) >= self.since]))

    def _ask_untried(self, trials: Sequence[FrozenTrial]) -> optuna.Trial:
        """Start a trial with values that no other has: with the same seeds its results would be the same."""
        tried = [trial.params for trial in [*finished_trials(trials), *self.running()]]
        for number in itertools.count(len(trials)):
            self._seed_sampler(number, exhaustive=number > len(trials) and count_points(self.search) is not None)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Heartbeat of storage")  # they are recorded by the worker
                trial = self.study.ask()
            self.record_heartbeat(trial.number)
            for searched in self.search:
                suggest(trial, searched)
            if trial.params not in tried:
                break
            trial.set_user_attr(DUPLICATE, True)
            self.study.tell(trial, state=TrialState.FAIL)
        return trial

    def _suggest_missing_params(self, number: int) -> None:
        """Suggest the parameters that a running trial does not have yet."""
        self._seed_sampler(number)
        trial = optuna.Trial(self.study, self._trial_id(number))
        for searched in self.search:
            suggest(trial, searched)

    def _seed_sampler(self, count: int, *, exhaustive: bool = False) -> None:
        """Seed by the number of trials, so that no worker and no resumed study draws the same parameters twice."""
        seed = derive_seed(0, self.study.study_name, str(count))
        self.study.sampler = make_sampler(self.settings, seed, exhaustive=exhaustive)

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def open_trial_queue(
    storage: RDBStorage,
    name: str,
    settings: StudySettings,
    search: Sequence[SearchedSetting],
    *,
    identity: Mapping[str, str],
    maximize: Sequence[bool],
    epochs: int,
) -> TrialQueue:
    """Start a study, or resume it.

    Args:
        identity: what must be the same when a study is resumed, in words.
        maximize: for each objective, whether greater is better.
        epochs: of a trial, all seeds together.

    Raises:
        ConfigurationError: it was started with another experiment, search or objective; says what differs.
    """
    directions: list[Literal["maximize", "minimize"]] = ["maximize" if up else "minimize" for up in maximize]
    pairs = zip(settings.objectives, directions, strict=True)
    identity = {**identity, **{f"direction of {text}": direction for text, direction in pairs}}
    with locked(storage):
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        trials = study.get_trials(deepcopy=False)
        if IDENTITY not in study.user_attrs and not trials:
            study.set_user_attr(ID, secrets.token_hex(8))
            study.set_user_attr(IDENTITY, json.dumps(identity))
        _check_identity(study, identity, redacted(storage.url))
        if not trials and settings.baseline:
            study.enqueue_trial({searched.name: searched.baseline for searched in search})
    return TrialQueue(study, storage, settings, search, epochs=epochs)


def join_trial_queue(
    storage: RDBStorage, name: str, settings: StudySettings, search: Sequence[SearchedSetting], *, epochs: int
) -> TrialQueue:
    """Join a study that another process has opened."""
    study = optuna.load_study(study_name=name, storage=storage)
    return TrialQueue(study, storage, settings, search, epochs=epochs)


def _check_identity(study: optuna.Study, identity: Mapping[str, str], where: str) -> None:
    """Check that a resumed study has the settings that it was started with.

    Raises:
        ConfigurationError: it is not.
    """
    name = study.study_name
    if IDENTITY not in study.user_attrs:
        raise ConfigurationError(f"{where} has a study {name!r} that topwork did not begin; set another study.name")
    changes = differing([json.loads(study.user_attrs[IDENTITY]), identity])
    if changes:
        lines = [
            f"{what}: {before or 'nothing'} then, {now or 'nothing'} now" for what, (before, now) in changes.items()
        ]
        message = "\n".join([f"study {name!r} in {where} was begun with other settings:", *lines])
        raise ConfigurationError(f"{message}\nset another study.name to start anew, or change these back to resume")
