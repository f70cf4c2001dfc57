"""Search an experiment's study section, and report what was found."""

import time

from topwork.engine.preparation_cache import PreparationCache
from topwork.experiment.schema import Experiment
from topwork.lab.study.report import (
    changes_of,
    evaluate_trials,
    find_baseline,
    find_best,
    summarize,
    write_experiment,
)
from topwork.lab.study.resolved_study import ResolvedStudy, plan_study, resolve_study
from topwork.lab.study.result import FailedStudyError, StudyObserver, StudyResult, TrialEvaluation, TrialSummary
from topwork.lab.study.storage import check_url, redacted
from topwork.lab.study.study_run import StudyRun, open_study, run_trials
from topwork.lab.study.trial_queue import MAX_FAILURES, TrialQueue
from topwork.lab.tracking.store import redact_text, redact_uri
from topwork.lab.tracking.study_log import StudyLog
from topwork.registry import discover


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
    resolved = resolve_study(experiment, discover(experiment.plugins))
    check_url(resolved.storage_url)
    observer.resolved(resolved)
    with open_study(resolved, lambda: plan_study(resolved, cache), started) as run:
        encoding_seconds = run_trials(run, cache, observer)
        result = _finish(run, encoding_seconds)
    _raise_if_failed(run, result)
    return result


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
    warnings += [f"trial {trial.number}: {note}" for trial in chosen for note in trial.notes]
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
