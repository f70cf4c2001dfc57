"""A study that trains one variant after another, each once with each seed, to compare them on the same test rows."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from topwork.engine.evaluation.comparison import Difference, SplitOutputs, difference, metrics_of
from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.stopping import Monitor, find_monitors
from topwork.errors import ConfigurationError, StudyError, enumerate_names
from topwork.experiment.schema import Experiment
from topwork.experiment.study import MAX_NAME, Dimension, StudySettings
from topwork.interfaces.head import Metric
from topwork.lab.study.report import find_outputs, summarize
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.lab.study.study_run import StudyRun, run_trials
from topwork.lab.study.trial_queue import MAX_FAILURES
from topwork.lab.study.trial_states import RUN
from topwork.lab.study.worker_job import outputs_file

Variant = TypeVar("Variant", bound=Hashable)


def with_grid(
    experiment: Experiment,
    command: str,
    path: str,
    choices: Sequence[Any],
    *,
    objective: str | list[str],
    workers: int | None,
) -> Experiment:
    """Return the experiment with a study section that trains every choice of one setting.

    Where the experiment has a study section, its ``name``, ``workers``, ``launcher``, ``slurm``,
    ``storage`` and ``timeout`` hold.

    Args:
        command: what the study is named after.

    Raises:
        ConfigurationError: its name is too long.
    """
    given = experiment.study
    name = f"{(given.name if given else None) or experiment.name}-{command}"
    if len(name) > MAX_NAME:
        raise ConfigurationError(
            f"the study of {command} would be named {name}, which is longer than {MAX_NAME} characters; give "
            f"study.name of up to {MAX_NAME - len(command) - 1}"
        )
    settings = StudySettings(
        search={path: Dimension(choices=list(choices))},
        objective=objective,
        trials=len(choices),
        baseline=False,
        workers=workers or (given.workers if given else 2),
        sampler="grid",
        launcher=given.launcher if given else "local",
        slurm=given.slurm if given else None,
        storage=given.storage if given else None,
        timeout=given.timeout if given else None,
        seeds=list(experiment.training.seeds) if experiment.training.seeds else None,
        name=name,
    )
    return experiment.model_copy(update={"study": settings})


def check_splits(prepared: Preparation, command: str) -> None:
    """Check that each task has rows to choose epochs by, and others to compare on.

    Raises:
        ConfigurationError: there are no validation rows, or no test rows; names the tasks.
    """
    where = prepared.experiment.origin.locate("data")
    tasks = prepared.model.tasks
    missing = []
    for split in ("validation", "test"):
        labelled = prepared.dataset.tasks_with_labels(split) if split in prepared.dataset.splits else ()
        lacking = [task for task in tasks if task not in labelled]
        if lacking:
            of = "" if len(lacking) == len(tasks) else f" with labels of {enumerate_names(lacking)}"
            missing.append(f"no {split} rows{of}")
    if missing:
        raise ConfigurationError(
            f"{where}: {command} needs validation rows to choose epochs by and test rows to compare on, and there are "
            f"{' and '.join(missing)}: set split.validation and split.test, or give files"
        )


def train_grid(run: StudyRun, cache: PreparationCache, observer: StudyObserver) -> tuple[list[TrialSummary], float]:
    """Train all variants; return what came of each, and the seconds of encoding.

    Raises:
        StudyError: trainings failed one after another.
    """
    encoding_seconds = run_trials(run, cache, observer)
    trials = summarize(run.queue.finished())
    failed = [trial for trial in trials if trial.state == "failed"]
    if run.queue.consecutive_failures(run.queue.finished()) >= MAX_FAILURES:
        raise StudyError(
            f"{run.study.name} ended after {MAX_FAILURES} failed trainings in a row; the last one: "
            f"{failed[-1].reason}\nfix that, then run the same command to go on"
        )
    return trials, encoding_seconds


def outputs_of_trials(
    run: StudyRun, trials: Mapping[Variant, TrialSummary]
) -> tuple[dict[Variant, SplitOutputs], list[str]]:
    """Return the outputs on the test rows of each variant that was trained, by its name, and what is amiss."""
    study, queue = run.study, run.queue
    store = run.log.store if run.log else None
    runs = {trial.number: trial.user_attrs.get(RUN) for trial in queue.finished()}
    found: dict[Variant, SplitOutputs] = {}
    warnings = []
    for variant, trial in trials.items():
        name = ", ".join(map(str, variant)) if isinstance(variant, tuple) else str(variant)
        if trial.state != "complete":
            warnings.append(f"training {name} {trial.state}: {trial.reason}")
            continue
        outputs, why = find_outputs(outputs_file(study.folder, queue.id, trial.number), store, runs.get(trial.number))
        if why:
            warnings.append(f"the outputs of training {name} {why}")
        if outputs:
            found[variant] = outputs
    return found, warnings


def monitors_of(experiment: Experiment, prepared: Preparation, task: str) -> dict[str | None, Monitor]:
    """Return what is watched where a task is trained alone.

    Raises:
        ConfigurationError: nothing that is watched says something of it.
    """
    return find_monitors(
        experiment.training,
        experiment.tasks,
        {task: prepared.model.tasks[task]},
        prepared.dataset.tasks_with_labels("validation"),
        origin=experiment.origin,
    )


def compared_metric(metrics: Sequence[Metric], monitor: Monitor, task: str) -> str:
    """Return the name of the metric that variants are compared by: the one of the task that is watched, or the first.

    Args:
        metrics: of the task's head.
        monitor: what is watched for the task, or for all together.
    """
    known = [metric.name for metric in metrics]
    named = [name.rpartition("/")[2] for name in monitor.objective.metrics() if name.startswith(f"validation/{task}/")]
    return next((name for name in named if name in known), known[0])


def measure_of(experiment: Experiment, outputs: SplitOutputs, task: str, name: str) -> Metric:
    """Return a metric of a task by its name."""
    return metrics_of(experiment.tasks[task].head, outputs, task)[name]


def gain(before: SplitOutputs, after: SplitOutputs, task: str, measure: Metric) -> Difference:
    """Return how much better one variant is at a task than another, so that more is better."""
    found = difference((measure, before.by_seed(task)), (measure, after.by_seed(task)), before.targets[task])
    if measure.greater_is_better:
        return found
    return replace(found, value=-found.value, low=-found.high, high=-found.low)
