"""A study that runs: checked, with its workers, its trials, and its run in MLflow."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial

from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.preparation_cache import PreparationCache
from topwork.lab.processes import defer_signals, exit_on_sigterm
from topwork.lab.study.encode_ahead import encode_ahead
from topwork.lab.study.launcher import make_pool
from topwork.lab.study.report import rank, summarize
from topwork.lab.study.resolved_study import ResolvedStudy, StudyPlan
from topwork.lab.study.result import StudyObserver
from topwork.lab.study.storage import close, locked, open_storage, report_errors
from topwork.lab.study.trial_queue import MAX_FAILURES, TrialQueue, open_trial_queue
from topwork.lab.study.trial_states import PARENT_RUN
from topwork.lab.study.worker_job import TrackedRun, WorkerJob, remove_checkpoints
from topwork.lab.study.worker_pool import Pool
from topwork.lab.tracking.store import TrackingStore, open_store
from topwork.lab.tracking.study_log import StudyLog, open_study_log
from topwork.lab.tracking.study_unsent import STUDY, StudyUnsent, send_waiting

#: Seconds between two polls of the workers.
POLL_INTERVAL = 0.5


@dataclass(frozen=True)
class StudyRun:
    """A study that runs: checked, with its workers, its trials, and its run in MLflow."""

    study: ResolvedStudy
    plan: StudyPlan
    pool: Pool
    queue: TrialQueue
    log: StudyLog | None
    started: float

    @property
    def deadline(self) -> float | None:
        """When no more trials may begin, in seconds since 1970."""
        timeout = self.study.settings.timeout
        return self.started + timeout if timeout else None

    @cached_property
    def job(self) -> WorkerJob:
        """What the workers need to know."""
        log, study = self.log, self.study
        tracked = log and TrackedRun(uri=log.store.uri, experiment_id=log.store.experiment_id, run_id=log.run_id)
        return WorkerJob(
            experiment=study.experiment.model_dump(mode="json", exclude_unset=True),
            plugins=study.experiment.plugins,
            folder=study.folder,
            storage=study.storage_url,
            tracked=tracked,
            digest=self.plan.baseline.dataset.digest,
            since=self.started,
            deadline=self.deadline,
        )


@contextmanager
def open_study(resolved: ResolvedStudy, plan: Callable[[], StudyPlan], started: float) -> Iterator[StudyRun]:
    """Check a study while its workers start, open its trials and its MLflow run, and close all of it in the end.

    Args:
        plan: checks the study against the real model and rows.
        started: when this began, in seconds since 1970.

    Raises:
        TopworkError: what is wrong, and what to do about it.
    """
    tracking = resolved.experiment.tracking
    with exit_on_sigterm(), report_errors(resolved.storage_url), ExitStack() as at_the_end:
        pool = make_pool(resolved)
        at_the_end.callback(pool.terminate)
        store = open_store(tracking, resolved.experiment.name) if tracking.enabled else None
        pool.spawn()  # they import what they need while the study is checked and texts are encoded
        planned = plan()
        storage = open_storage(resolved.storage_url)
        at_the_end.callback(close, storage)
        queue = open_trial_queue(
            storage,
            resolved.name,
            resolved.settings,
            resolved.search,
            identity=planned.identity,
            maximize=planned.maximize,
            epochs=resolved.total_epochs,
        )
        queue.since = started
        queue.requeue_failed()
        log = None
        if store:
            with store.defer_signals():
                log = _open_log(store, queue, resolved, planned)
                at_the_end.push(partial(_close_log, log, queue))
        yield StudyRun(resolved, planned, pool, queue, log, started)


def run_trials(run: StudyRun, cache: PreparationCache, observer: StudyObserver) -> float:
    """Encode what trials share, let workers train them, and leave all in order; return the seconds of encoding."""
    pool, queue = run.pool, run.queue
    pool.assign(run.job)
    try:
        seconds = encode_ahead(run.study, run.plan.baseline, cache, observer)
        pool.start()
        _poll_until_finished(run, observer)
        remove_checkpoints(run.study.folder)
    finally:
        pool.terminate()
        with defer_signals():
            with locked(queue.storage):
                queue.reap_stale()
            if run.log:
                _sync(run.log, queue, run.study)
    return seconds


def _poll_until_finished(run: StudyRun, observer: StudyObserver) -> None:
    """Let workers train until all trials are finished, or there is a reason to end.

    Raises:
        StudyError: workers crash one after another.
    """
    while True:
        with defer_signals():
            finished = _poll(run, observer)
        if finished:
            return
        time.sleep(POLL_INTERVAL)


def _poll(run: StudyRun, observer: StudyObserver) -> bool:
    """See what the workers have done, and that there are as many as are wanted; return whether the study is finished.

    Raises:
        StudyError: workers crash one after another.
    """
    pool, queue, job = run.pool, run.queue, run.job
    trials, running = queue.finished(), queue.running()
    pool.count_finished(len(trials))
    observer.trials(rank(summarize(trials), run.plan.maximize), len(running), queue.n_trials)
    late = run.deadline is not None and time.time() > run.deadline and bool(trials or running)
    ending = late or len(trials) >= queue.n_trials or queue.consecutive_failures(trials) >= MAX_FAILURES
    if ending and not running:
        return True  # what a worker does after its trial is complete nobody needs
    pool.respawn(job, wanted=not ending)
    if pool.is_empty:
        with locked(queue.storage):
            queue.reap_stale()  # trials of other machines whose heartbeat stopped
        if len(trials) + len(queue.running()) < queue.n_trials and not ending:
            pool.refill(job)
    return False


def _open_log(store: TrackingStore, queue: TrialQueue, study: ResolvedStudy, plan: StudyPlan) -> StudyLog:
    """Start the study's MLflow run, or resume it; of several parents one starts it."""
    with locked(queue.storage):
        run_id = queue.study.user_attrs.get(PARENT_RUN)
        waiting = StudyUnsent(study.folder, queue.id, STUDY)
        send_waiting(store, study.folder, queue.id, [STUDY])
        log = open_study_log(store, run_id, study.name, plan.baseline.dataset.digest, waiting=waiting)
        if log.run_id == run_id:
            _sync(log, queue, study)
            return log
        queue.study.set_user_attr(PARENT_RUN, log.run_id)
    parameters = {f"search.{one.path}": one.dimension.describe() for one in study.search}
    settings = study.settings.model_dump(mode="json", exclude={"search", "storage", "name"})
    log.start(study.experiment, parameters | {f"study.{name}": str(value) for name, value in settings.items()})
    return log


def _sync(log: StudyLog, queue: TrialQueue, study: ResolvedStudy) -> None:
    """Send what trials' runs wait for, and give each run the state of its trial."""
    states = queue.states()
    ended = [str(number) for number, state in states.items() if state != "running"]
    send_waiting(log.store, study.folder, queue.id, ended)
    log.sync_states(states)


def _close_log(
    log: StudyLog, queue: TrialQueue, kind: type[BaseException] | None, error: BaseException | None, trace: object
) -> None:
    """End the study's run, whatever ended the study."""
    with defer_signals():
        complete = error is None
        if error is not None:
            with suppress(SQLAlchemyError, OptunaError):  # the database may be what ended it
                complete = len(queue.finished()) >= queue.n_trials
        log.close("FINISHED" if complete else "KILLED")
