"""Which task helps which: each alone, each pair, and all together, trained and compared on the same test rows."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from topwork.engine.evaluation.comparison import Difference, SplitOutputs, difference, metrics_of
from topwork.engine.evaluation.estimates import estimate
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.stopping import Monitor, find_monitors
from topwork.errors import ConfigurationError, StudyError
from topwork.experiment.schema import Experiment
from topwork.experiment.study import MAX_NAME, Dimension, StudySettings
from topwork.files import write_file
from topwork.interfaces.head import Metric
from topwork.lab.study.report import find_outputs, summarize
from topwork.lab.study.resolved_study import ResolvedStudy, StudyPlan, identity_of, resolve_study
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.lab.study.search_space import values_of
from topwork.lab.study.storage import check_url
from topwork.lab.study.study_run import StudyRun, open_study, run_trials
from topwork.lab.study.transfer_figure import draw_transfer
from topwork.lab.study.transfer_result import ALL, TransferResult, as_csv
from topwork.lab.study.trial_queue import MAX_FAILURES
from topwork.lab.study.trial_states import RUN
from topwork.lab.study.worker_job import outputs_file
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
    resolved = resolve_study(with_subsets(experiment, workers), discover())
    check_url(resolved.storage_url)
    observer.resolved(resolved)
    with open_study(resolved, lambda: _plan(resolved, cache), started) as run:
        encoding_seconds = run_trials(run, cache, observer)
        trials = summarize(run.queue.finished())
        failed = [trial for trial in trials if trial.state == "failed"]
        if run.queue.consecutive_failures(run.queue.finished()) >= MAX_FAILURES:
            raise StudyError(
                f"{resolved.name} ended after {MAX_FAILURES} failed trainings in a row; the last one: "
                f"{failed[-1].reason}\nfix that, then run the same command to go on"
            )
        result = _result(run, trials, encoding_seconds)
        write_file(result.folder / "transfer.csv", as_csv(result).encode())
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
    given = experiment.study
    name = f"{(given.name if given else None) or experiment.name}-transfer"
    if len(name) > MAX_NAME:
        raise ConfigurationError(
            f"the study of transfer would be named {name}, which is longer than {MAX_NAME} characters; give study.name "
            f"of up to {MAX_NAME - len('-transfer')}"
        )
    settings = StudySettings(
        search={"training.tasks": Dimension(choices=subsets(tasks))},
        objective="loss",
        trials=len(subsets(tasks)),
        baseline=False,
        workers=workers or (given.workers if given else 2),
        sampler="grid",
        storage=given.storage if given else None,
        timeout=given.timeout if given else None,
        seeds=list(experiment.training.seeds) if experiment.training.seeds else None,
        name=name,
    )
    return experiment.model_copy(update={"study": settings})


def subsets(tasks: Sequence[str]) -> list[list[str]]:
    """Return each task alone, each pair, and all together."""
    pairs = [list(pair) for pair in itertools.combinations(tasks, 2)]
    return [*([task] for task in tasks), *pairs, *([list(tasks)] if len(tasks) > 2 else [])]


def _plan(study: ResolvedStudy, cache: PreparationCache) -> StudyPlan:
    """Check the experiment with all tasks, and that what is monitored says something of each alone.

    Raises:
        TopworkError: something does not fit, or there are no validation rows, or no test rows.
    """
    experiment = study.trial_experiment({})
    baseline = cache.prepare(experiment)
    splits, where = baseline.dataset.splits, experiment.origin.locate("data")
    if missing := [split for split in ("validation", "test") if split not in splits]:
        raise ConfigurationError(
            f"{where}: transfer needs validation rows to choose epochs by and test rows to compare on, and there are "
            f"no {' and no '.join(missing)} rows: set split.validation and split.test, or give files"
        )
    for task in experiment.tasks:
        _monitors(experiment, baseline, task)
    return StudyPlan(baseline, (False,), identity_of(study, baseline.dataset.digest))


def _monitors(experiment: Experiment, prepared: Preparation, task: str) -> dict[str | None, Monitor]:
    """Return what is watched where a task is trained alone."""
    return find_monitors(
        experiment.training,
        experiment.tasks,
        {task: prepared.model.tasks[task]},
        prepared.dataset.tasks_with_labels("validation"),
        origin=experiment.origin,
    )


def _result(run: StudyRun, trials: Sequence[TrialSummary], encoding_seconds: float) -> TransferResult:
    """Compare what was trained."""
    study, experiment = run.study, run.study.experiment
    tasks = list(experiment.tasks)
    outputs, warnings = _outputs(run, trials)
    tried = {tuple(values_of(trial.parameters, study.search)["training.tasks"]) for trial in trials}
    if left := len(subsets(tasks)) - len(tried):
        warnings.append(f"{left} of {len(subsets(tasks))} subsets were not trained; run the same command to go on")
    if missing := [task for task in tasks if (task,) not in outputs]:
        reasons = "; ".join(trial.reason for trial in trials if trial.reason)
        raise StudyError(
            f"task {', '.join(missing)} was not trained alone, so that there is nothing to compare with"
            f"{f': {reasons}' if reasons else '; run the same command to go on'}"
        )
    measures = {task: _measure(experiment, run.plan.baseline, outputs[(task,)], task) for task in tasks}
    gains = {
        (task, partner): gain
        for task in tasks
        for partner in [*tasks, ALL]
        if partner != task and (gain := _gain(outputs, tasks, task, partner, measures[task])) is not None
    }
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


def _outputs(run: StudyRun, trials: Sequence[TrialSummary]) -> tuple[dict[tuple[str, ...], SplitOutputs], list[str]]:
    """Return the outputs on the test rows of each subset of tasks that was trained, and what is amiss."""
    study, queue = run.study, run.queue
    store = run.log.store if run.log else None
    runs = {trial.number: trial.user_attrs.get(RUN) for trial in queue.finished()}
    found: dict[tuple[str, ...], SplitOutputs] = {}
    warnings = []
    for trial in trials:
        trained = ", ".join(tasks := values_of(trial.parameters, study.search)["training.tasks"])
        if trial.state != "complete":
            warnings.append(f"training {trained} {trial.state}: {trial.reason}")
            continue
        outputs, why = find_outputs(outputs_file(study.folder, queue.id, trial.number), store, runs.get(trial.number))
        if why:
            warnings.append(f"the outputs of training {trained} {why}")
        if outputs:
            found[tuple(tasks)] = outputs
    return found, warnings


def _measure(experiment: Experiment, prepared: Preparation, outputs: SplitOutputs, task: str) -> Metric:
    """Return the metric of a task that is compared: the one that is watched, or else the head's first."""
    known = metrics_of(experiment.tasks[task].head, outputs, task)
    (monitor,) = _monitors(experiment, prepared, task).values()
    named = [name.rpartition("/")[2] for name in monitor.objective.metrics() if name.startswith(f"validation/{task}/")]
    return next((known[name] for name in named if name in known), next(iter(known.values())))


def _gain(
    outputs: Mapping[tuple[str, ...], SplitOutputs], tasks: Sequence[str], task: str, partner: str, measure: Metric
) -> Difference | None:
    """Return how much better a task is with a partner than alone; None where that was not trained."""
    together = tuple(one for one in tasks if partner == ALL or one in (task, partner))
    if together not in outputs or (partner == ALL and len(tasks) == 2):
        return None
    before, after = outputs[(task,)], outputs[together]
    gain = difference((measure, before.by_seed(task)), (measure, after.by_seed(task)), before.targets[task])
    if measure.greater_is_better:
        return gain
    return replace(gain, value=-gain.value, low=-gain.high, high=-gain.low)


def _log(run: StudyRun, result: TransferResult) -> None:
    """Log the matrix to MLflow: as metrics, as a table and as a figure."""
    assert run.log is not None
    run.log.log_transfer(
        {f"transfer/{task}/{partner.replace(' ', '_')}": gain for (task, partner), gain in result.gains.items()},
        {f"alone/{task}/{result.metrics[task]}": one for task, one in result.alone.items()},
    )
    run.log.log_files({"transfer": draw_transfer(result)}, {"transfer.csv": as_csv(result)})
