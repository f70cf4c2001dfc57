"""Which task helps which: each alone, each pair, and all together, trained and compared on the same test rows."""

import itertools
import time
from collections.abc import Mapping, Sequence

from topwork.engine.evaluation.comparison import Difference, SplitOutputs
from topwork.engine.evaluation.estimates import estimate
from topwork.engine.preparation_cache import PreparationCache
from topwork.errors import ConfigurationError, StudyError
from topwork.experiment.schema import Experiment
from topwork.files import write_file
from topwork.interfaces.head import Metric
from topwork.lab.alone import prepare_alone
from topwork.lab.study.grid import (
    check_splits,
    compared_metric,
    gain,
    measure_of,
    monitors_of,
    outputs_of_trials,
    train_grid,
    with_grid,
)
from topwork.lab.study.resolved_study import ResolvedStudy, StudyPlan, identity_of, resolve_study
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.lab.study.search_space import values_of
from topwork.lab.study.storage import check_url
from topwork.lab.study.study_run import StudyRun, open_study
from topwork.lab.study.transfer_figure import draw_transfer
from topwork.lab.study.transfer_result import ALL, TransferResult
from topwork.lab.tracking.store import redact_uri
from topwork.registry import discover


def transfer(
    experiment: Experiment, *, workers: int | None = None, observer: StudyObserver | None = None
) -> TransferResult:
    """Train every task alone, every pair, and all together, with each seed, or go on where this was interrupted.

    Texts are encoded once. Where the experiment has a study section, its ``name``, ``workers``, ``storage`` and
    ``timeout`` hold. What was found is logged, and written to ``transfer.csv`` in the study's folder.

    Args:
        workers: processes of one thread each; without it the study section's, or 2.
        observer: its methods are called while trainings run.

    Raises:
        TopworkError: what is wrong, and what to do about it.
        StudyError: trainings failed one after another, or a task could not be trained alone.
    """
    started = time.time()
    observer = observer or StudyObserver()
    cache = PreparationCache()
    resolved = resolve_study(with_subsets(experiment, workers), discover(experiment.plugins))
    check_url(resolved.storage_url)
    observer.resolved(resolved)
    with open_study(resolved, lambda: _plan(resolved, cache), started) as run:
        trials, encoding_seconds = train_grid(run, cache, observer)
        result = _result(run, trials, encoding_seconds)
        write_file(result.folder / "transfer.csv", result.as_csv().encode())
        if run.log:
            _log(run, result)
    return result


def with_subsets(experiment: Experiment, workers: int | None) -> Experiment:
    """Return the experiment with a study section that searches which tasks are trained.

    Raises:
        ConfigurationError: it has one task only, or its name is too long.
    """
    tasks = list(experiment.tasks)
    if len(tasks) < 2:
        raise ConfigurationError(f"transfer needs two tasks or more, and the experiment has only {tasks[0]}")
    if experiment.training.tasks is not None:
        raise ConfigurationError("transfer trains all subsets of tasks; leave out training.tasks")
    return with_grid(experiment, "transfer", "training.tasks", subsets(tasks), objective="loss", workers=workers)


def subsets(tasks: Sequence[str]) -> list[list[str]]:
    """Return each task alone, each pair, and all together."""
    pairs = [list(pair) for pair in itertools.combinations(tasks, 2)]
    return [*([task] for task in tasks), *pairs, *([list(tasks)] if len(tasks) > 2 else [])]


def _plan(study: ResolvedStudy, cache: PreparationCache) -> StudyPlan:
    """Check the experiment with all tasks, and with each alone.

    Raises:
        TopworkError: something does not fit, or there are no validation rows, or no test rows.
    """
    experiment = study.trial_experiment({})
    together = cache.prepare(experiment)
    check_splits(together, "transfer")
    for task in experiment.tasks:
        monitors_of(experiment, together, task)
    prepare_alone(cache, experiment, study.registry)
    baseline = cache.prepare(experiment)  # again, since what is prepared shares the backbone
    return StudyPlan(baseline, (False,), identity_of(study, baseline.dataset.digest))


def _result(run: StudyRun, trials: Sequence[TrialSummary], encoding_seconds: float) -> TransferResult:
    """Compare what was trained."""
    study, experiment, baseline = run.study, run.study.experiment, run.plan.baseline
    tasks = list(experiment.tasks)
    by_tasks = {tuple(values_of(trial.parameters, study.search)["training.tasks"]): trial for trial in trials}
    outputs, warnings = outputs_of_trials(run, by_tasks)
    if left := len(subsets(tasks)) - len(by_tasks):
        warnings.append(f"{left} of {len(subsets(tasks))} subsets were not trained; run the same command to go on")
    if missing := [task for task in tasks if (task,) not in outputs]:
        reasons = "; ".join(trial.reason for trial in trials if trial.reason)
        raise StudyError(
            f"task {', '.join(missing)} was not trained alone, so that there is nothing to compare with"
            f"{f': {reasons}' if reasons else '; run the same command to go on'}"
        )
    compared = {
        task: compared_metric(baseline.model.tasks[task].metrics, monitor, task)
        for task in tasks
        for monitor in monitors_of(experiment, baseline, task).values()
    }
    measures = {task: measure_of(experiment, outputs[(task,)], task, name) for task, name in compared.items()}
    gains = {
        (task, partner): found
        for task in tasks
        for partner in [*tasks, ALL]
        if partner != task and (found := _gain(outputs, tasks, task, partner, measures[task])) is not None
    }
    if noted := sum(bool(trial.notes) for trial in by_tasks.values()):
        warnings.append(
            f"in {noted} of {len(by_tasks)} subsets a head that had stopped is used with what tasks share from another "
            "epoch, which changed what was monitored: gains hold that too; training.stop: together keeps one epoch"
        )
    log = run.log
    return TransferResult(
        name=study.name,
        folder=study.folder,
        metrics={task: measure.name for task, measure in measures.items()},
        alone={
            task: estimate(measures[task], outputs[(task,)].by_seed(task), outputs[(task,)].targets[task])
            for task in tasks
        },
        gains=gains,
        seeds=study.seeds,
        trainings=len(trials) * len(study.seeds),
        training_seconds=sum(trial.training_seconds for trial in trials),
        seconds=time.time() - run.started,
        encoding_seconds=encoding_seconds,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        warnings=[*run.plan.baseline.warnings, *run.plan.baseline.sampling.warnings_of_comparison, *warnings],
    )


def _gain(
    outputs: Mapping[tuple[str, ...], SplitOutputs], tasks: Sequence[str], task: str, partner: str, measure: Metric
) -> Difference | None:
    """Return how much better a task is with a partner than alone; None where that was not trained."""
    together = tuple(one for one in tasks if partner == ALL or one in (task, partner))
    if together not in outputs or (partner == ALL and len(tasks) == 2):
        return None
    return gain(outputs[(task,)], outputs[together], task, measure)


def _log(run: StudyRun, result: TransferResult) -> None:
    """Log the matrix to MLflow: as metrics, as a table and as a figure."""
    assert run.log is not None
    run.log.log_figures(
        {f"transfer/{task}/{partner.replace(' ', '_')}": gain for (task, partner), gain in result.gains.items()}
        | {f"alone/{task}/{result.metrics[task]}": one for task, one in result.alone.items()}
    )
    run.log.log_files({"transfer": draw_transfer(result)}, {"transfer.csv": result.as_csv()})
