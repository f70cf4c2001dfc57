"""Train each task by itself, to say what it gained from the others."""

from collections.abc import Sequence

from topwork.engine.evaluation.comparison import Difference, SplitOutputs, difference, metrics_of, stack_seeds
from topwork.engine.preparation_cache import PreparationCache
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.lab.runner import Runner
from topwork.lab.tracking.run_log import RunLog
from topwork.registry import Registry


def check_alone(runner: Runner, experiment: Experiment) -> None:
    """Check that each task can be trained by itself, before any is.

    Raises:
        ConfigurationError: there is one task only, or what is set does not fit a task alone.
    """
    tasks = list(experiment.trained_tasks)
    if len(tasks) < 2:
        raise ConfigurationError(f"{tasks[0]} is the only task, so that nothing is to be compared with it alone")
    first = experiment.training.seeds[0] if experiment.training.seeds else experiment.training.seed
    one_seed = {"training.seeds": None, "training.seed": first}
    prepare_alone(runner.cache, with_overrides(experiment, one_seed, runner.registry), runner.registry)


def prepare_alone(cache: PreparationCache, experiment: Experiment, registry: Registry) -> None:
    """Prepare each task of an experiment with one seed by itself.

    Raises:
        ConfigurationError: what is set does not fit a task alone.
    """
    for task in experiment.trained_tasks:
        try:
            cache.prepare(with_overrides(experiment, {"training.tasks": [task]}, registry))
        except ConfigurationError as error:
            raise ConfigurationError(f"task {task} cannot be trained alone: {error}") from None


def gains_of_joining(
    runner: Runner, experiment: Experiment, seeds: Sequence[int], name: str, joint: SplitOutputs, log: RunLog | None
) -> dict[str, Difference]:
    """Train each task by itself, on as many passes over its own rows, and compare.

    Args:
        seeds: with which to train; none where the experiment has one.
        name: of the run in which the tasks were trained together.
        joint: its outputs, of as many seeds.
        log: of that run, which those of the single tasks are put below.

    Returns:
        By ``<task>/<metric>``, how much more the tasks have together.
    """
    gains: dict[str, Difference] = {}
    for task in joint.outputs:
        every: Sequence[int | None] = seeds or [None]
        alone = stack_seeds([_train_alone(runner, experiment, task, seed, name, log) for seed in every])
        for metric, measure in metrics_of(experiment.tasks[task].head, joint, task).items():
            before, after = ((measure, outputs.by_seed(task)) for outputs in (alone, joint))
            gains[f"{task}/{metric}"] = difference(before, after, joint.targets[task])
    if log:
        log.log_gains(gains, joint.split)
    return gains


def _train_alone(
    runner: Runner, experiment: Experiment, task: str, seed: int | None, name: str, log: RunLog | None
) -> SplitOutputs:
    """Train one task with one seed; return its outputs for the rows that it is evaluated on."""
    with_seed = {} if seed is None else {"training.seeds": None, "training.seed": seed}
    varied = with_overrides(experiment, {"training.tasks": [task], **with_seed}, runner.registry)
    named = f"alone-{task}" + ("" if seed is None else f"-seed-{seed}")
    title = f"{task} alone" + ("" if seed is None else f", seed {seed}")
    return runner.run_below(varied, title, name, named, None, log)[1]
