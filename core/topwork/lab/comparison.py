"""Compare tracked runs: what was set otherwise, and what that changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from topwork.engine.comparison import Difference, difference, differing, mean_over_seeds, why_not_comparable
from topwork.engine.evaluation import Estimate, estimate
from topwork.errors import ConfigurationError, PluginError
from topwork.interfaces.head import Metric
from topwork.lab.tracking.finished_run import FinishedRun, find_runs
from topwork.registry import discover


@dataclass(frozen=True)
class Comparison:
    """Several runs beside each other, each against the first.

    Attributes:
        names: of the runs.
        split: the rows that all were judged on.
        settings: what differs, by parameter, a value for each run; None where a run has no such parameter.
        estimates: for each metric that all runs have, ``<task>/<metric>``, an estimate for each run.
        differences: for the same metrics, a difference from the first run for each other run.
    """

    names: tuple[str, ...]
    split: str
    settings: dict[str, list[str | None]]
    estimates: dict[str, list[Estimate]]
    differences: dict[str, list[Difference]]


def compare(runs: Sequence[str], *, uri: str | None = None) -> Comparison:
    """Compare finished runs on the rows that they were judged on.

    Args:
        runs: two or more, by MLflow's run id or by name; the first is what the others are compared with.
        uri: the MLflow store; without it MLFLOW_TRACKING_URI, or else mlflow.db in the working directory.

    Raises:
        ConfigurationError: a run is not there, or they cannot be compared.
        StorageError: the store cannot be read.
    """
    if len(set(runs)) < max(2, len(runs)):
        raise ConfigurationError(f"name two or more different runs to compare, got {', '.join(runs) or 'none'}")
    finished = find_runs(runs, uri)
    first, *others = [run.judged for run in finished]
    for run, other in zip(finished[1:], others, strict=True):
        if why := why_not_comparable(first, other):
            raise ConfigurationError(f"runs {finished[0].name} and {run.name} cannot be compared: {why}")
    estimates, differences = {}, {}
    for task in (task for task in first.classes if all(task in other.classes for other in others)):
        targets = first.targets[task]
        for metric in _metrics(finished[0], task):
            name = f"{task}/{metric.name}"
            estimates[name] = [estimate(metric, one.outputs[task], targets) for one in (first, *others)]
            differences[name] = [difference(metric, first.outputs[task], one.outputs[task], targets) for one in others]
    return Comparison(
        names=tuple(run.name for run in finished),
        split=first.split,
        settings=differing([run.settings for run in finished]),
        estimates=estimates,
        differences=differences,
    )


def _metrics(run: FinishedRun, task: str) -> Sequence[Metric]:
    """What the head of a run's task measures."""
    registry = discover()
    try:
        head = registry.heads.parse(run.heads[task], problems=registry.problems)
    except ValueError as fault:  # pydantic's is one too
        raise PluginError(f"run {run.name} needs the head of its task {task}: {fault}") from None
    metrics = head.build(run.judged.width, run.judged.classes[task]).metrics
    return [mean_over_seeds(metric, run.judged.seeds) for metric in metrics]
