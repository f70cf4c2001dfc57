"""Run a study: check it, encode once, let workers train its trials, and report."""

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property, partial

from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.schema import Experiment
from topwork.lab.processes import defer_signals, exit_on_sigterm
from topwork.lab.study.report import (
    changes_of,
    evaluate_trials,
    find_baseline,
    find_best,
    rank,
    summarize,
    write_experiment,
)
from topwork.lab.study.resolved_study import ResolvedStudy, StudyPlan, plan_study, resolve_study
from topwork.lab.study.result import FailedStudyError, StudyObserver, StudyResult, TrialEvaluation, TrialSummary
from topwork.lab.study.storage import check_url, close, locked, open_storage, redacted, report_errors
from topwork.lab.study.trial_queue import MAX_FAILURES, TrialQueue, open_trial_queue
from topwork.lab.study.trial_states import PARENT_RUN
from topwork.lab.study.worker_job import TrackedRun, WorkerJob
from topwork.lab.study.worker_pool import WorkerPool
from topwork.lab.tracking.store import TrackingStore, open_store, redact_text, redact_uri
from topwork.lab.tracking.study_log import StudyLog, open_study_log
from topwork.registry import discover

#: Seconds between two polls of the workers.
POLL_INTERVAL = 0.5


@dataclass(frozen=True)
class StudyRun:
    """A study that runs: checked, with its workers, its trials, and its run in MLflow."""

    study: ResolvedStudy
    plan: StudyPlan
    pool: WorkerPool
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
            folder=study.folder,
            storage=study.storage_url,
            tracked=tracked,
            digest=self.plan.baseline.dataset.digest,
            since=self.started,
            deadline=self.deadline,
        )


def study(experiment: Experiment, *, observer: StudyObserver | None = None) -> StudyResult:
    """Search the experiment's study section, or resume a study that was interrupted.

    Args:
        observer: its methods are called while the study runs.

    Raises:
        TopworkError: what is wrong, and what to do about it.
        FailedStudyError: trials failed one after another, or none is complete; it has what was found.
    """
    started = time.time()
    observer = observer or StudyObserver()
    cache = PreparationCache()
    resolved = resolve_study(experiment, discover())
    check_url(resolved.storage_url)
    observer.resolved(resolved)
    with exit_on_sigterm(), report_errors(resolved.storage_url), ExitStack() as at_the_end:
        pool = WorkerPool(resolved.folder, min(resolved.settings.workers, resolved.settings.trials))
        at_the_end.callback(pool.terminate)
        store = open_store(experiment.tracking, experiment.name) if experiment.tracking.enabled else None
        pool.spawn()  # they import what they need while the study is checked and texts are encoded
        plan = plan_study(resolved, cache)
        storage = open_storage(resolved.storage_url)
        at_the_end.callback(close, storage)
        queue = open_trial_queue(
            storage,
            resolved.name,
            resolved.settings,
            resolved.search,
            identity=plan.identity,
            maximize=plan.maximize,
            epochs=resolved.total_epochs,
        )
        queue.since = started
        queue.requeue_failed()
        log = None
        if store:
            with store.defer_signals():
                log = _open_log(store, queue, resolved, plan)
                at_the_end.push(partial(_close_log, log, queue))
        run = StudyRun(resolved, plan, pool, queue, log, started)
        encoding_seconds = _run_trials(run, cache, observer)
        result = _finish(run, encoding_seconds)
    _raise_if_failed(run, result)
    return result


def _run_trials(run: StudyRun, cache: PreparationCache, observer: StudyObserver) -> float:
    """Encode what trials share, let workers train them, and leave all in order; return the seconds of encoding."""
    pool, queue = run.pool, run.queue
    pool.assign(run.job)
    try:
        seconds = _encode_ahead(run.plan.baseline, cache, observer)
        pool.start()
        _poll_until_finished(run, observer)
    finally:
        pool.terminate()
        with defer_signals():
            with locked(queue.storage):
                queue.reap_stale()
            if run.log:
                run.log.sync_states(queue.states())
    return seconds


def _encode_ahead(baseline: Preparation, cache: PreparationCache, observer: Observer) -> float:
    """Encode what the store is to have, with all threads, before workers of one thread want it.

    Raises:
        StorageError: the store holds something else, or is required and cannot serve.
    """
    phase = baseline.plan.phases[0]
    device = make_accelerator(baseline.experiment.training).device
    baseline.model.to(device)
    if baseline.decide_store(phase, device).store is None:
        return 0.0  # nothing that workers could share
    _, report = cache.load_examples(baseline, phase, device, observer)
    observer.encoded(report)
    return report.seconds


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
    pool.reset_crashes(len(trials))
    observer.trials(rank(summarize(trials), run.plan.maximize), len(running), queue.n_trials)
    late = run.deadline is not None and time.time() > run.deadline and bool(trials or running)
    ending = late or len(trials) >= queue.n_trials or queue.consecutive_failures(trials) >= MAX_FAILURES
    if ending and not running:
        return True  # what a worker does after its trial is complete nobody needs
    pool.respawn(job, wanted=not ending)
    if not pool.processes:
        with locked(queue.storage):
            queue.reap_stale()  # trials of other machines whose heartbeat stopped
        if len(trials) + len(queue.running()) < queue.n_trials and not ending:
            pool.refill(job)
    return False


def _open_log(store: TrackingStore, queue: TrialQueue, study: ResolvedStudy, plan: StudyPlan) -> StudyLog:
    """Start the study's MLflow run, or resume it; of several parents one starts it."""
    with locked(queue.storage):
        run_id = queue.study.user_attrs.get(PARENT_RUN)
        log = open_study_log(store, run_id, study.name, plan.baseline.dataset.digest)
        if log.run_id == run_id:
            log.sync_states(queue.states())
            return log
        queue.study.set_user_attr(PARENT_RUN, log.run_id)
    parameters = {f"search.{one.path}": one.dimension.describe() for one in study.search}
    settings = study.settings.model_dump(mode="json", exclude={"search", "storage", "name"})
    log.start(study.experiment, parameters | {f"study.{name}": str(value) for name, value in settings.items()})
    return log


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


def _finish(run: StudyRun, encoding_seconds: float) -> StudyResult:
    """Choose the best trials, write them down, measure them on the test rows, and draw."""
    study, queue, log = run.study, run.queue, run.log
    trials = summarize(queue.finished())
    by_number = {trial.number: trial for trial in trials}
    baseline, best = find_baseline(trials, study.search), find_best(trials, run.plan.maximize)
    single = len(study.objectives) == 1
    files = {number: study.folder / ("best.yaml" if single else f"best-{number}.yaml") for number in best}
    for path in set(study.folder.glob("best-*.yaml")) - set(files.values()):
        path.unlink()  # of a Pareto front that is no more
    for number, path in files.items():
        write_experiment(path, by_number[number], study)
    evaluations, warnings = _evaluate(run, trials, baseline=baseline, best=best)
    result = StudyResult(
        name=study.name,
        folder=study.folder,
        storage=redacted(queue.storage.url),
        objectives=tuple(study.settings.objectives),
        maximize=run.plan.maximize,
        trials=trials,
        baseline=baseline,
        best=best,
        changes={number: changes_of(by_number[number], study) for number in best},
        files=files,
        evaluations=evaluations,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        seconds=time.time() - run.started,
        encoding_seconds=encoding_seconds,
        warnings=[*run.plan.baseline.warnings, *warnings],
    )
    if log:
        _log_result(log, queue, study, result)
    return result


def _evaluate(
    run: StudyRun, trials: list[TrialSummary], *, baseline: int | None, best: list[int]
) -> tuple[dict[int, TrialEvaluation], list[str]]:
    """Measure the best trials on the test rows; and say what went wrong on the way."""
    study, queue, splits = run.study, run.queue, run.plan.baseline.dataset.splits
    written = run.pool.stderr_tail()
    warnings = [f"workers wrote:\n{written}"] if written else []
    if queue.n_trials < study.settings.trials and len(trials) >= queue.n_trials:
        warnings.append(
            f"study.trials is {study.settings.trials}, but the searched values have {queue.n_trials} combinations; "
            "each was trained once"
        )
    if len(trials) < queue.n_trials and run.deadline is not None and time.time() > run.deadline:
        warnings.append(f"ended by study.timeout after {len(trials)} of {queue.n_trials} trials")
    if "test" not in splits:
        return {}, [*warnings, "there are no test rows, so what the best values are worth on other texts is not known"]
    if baseline is None:
        why = "is complete" if study.settings.baseline else "was asked for (study.baseline: false)"
        warnings.append(f"no trial with the experiment's own values {why}, so what is gained is not known")
    chosen = [trial for trial in trials if trial.number in best or trial.number == baseline]
    store = run.log.store if run.log else None
    evaluations, missing = evaluate_trials(chosen, baseline, study, queue, splits["test"], store)
    return evaluations, [*warnings, *missing]


def _log_result(log: StudyLog, queue: TrialQueue, study: ResolvedStudy, result: StudyResult) -> None:
    """Log the outcome, with figures."""
    from topwork.lab.study.figures import draw

    figures, page = draw(queue.study, result.objectives, study.search, baseline=result.baseline, best=result.best)
    by_number = {trial.number: trial for trial in result.trials}
    single = len(result.objectives) == 1
    named = {"first": result.baseline, **{"best" if single else f"best_{number}": number for number in result.best}}
    log.log_result(
        {name: by_number[number].values for name, number in named.items() if number is not None},
        {name: result.evaluations[number].estimates for name, number in named.items() if number in result.evaluations},
        len(result.trials),
    )
    pages = {"figures/study.html": page} if page else {}
    best = {path.name: path.read_text(encoding="utf-8") for path in result.files.values()}
    log.log_files(figures, pages | {name: redact_text(text) for name, text in best.items()})


def _raise_if_failed(run: StudyRun, result: StudyResult) -> None:
    """Raise where the study did not come to its end.

    Raises:
        FailedStudyError: see ``study``.
    """
    failed = [trial for trial in result.trials if trial.state == "failed"]
    if run.queue.consecutive_failures(run.queue.finished()) >= MAX_FAILURES:
        raise FailedStudyError(
            f"study {result.name} ended after {MAX_FAILURES} failed trials in a row; the last one: "
            f"{_last_reason(failed)}\nfix that, then run the same command to resume",
            result,
        )
    if not result.best:
        reason = f"; the last that failed: {_last_reason(failed)}" if failed else ""
        raise FailedStudyError(f"no trial of study {result.name} is complete{reason}", result)


def _last_reason(failed: list[TrialSummary]) -> str:
    return f"trial {failed[-1].number}: {failed[-1].reason}"
