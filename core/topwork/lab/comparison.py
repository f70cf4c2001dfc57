"""Compare tracked runs: what was set otherwise, and what that changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from topwork.engine.evaluation.comparison import Difference, difference, differing, metrics_of, why_not_comparable
from topwork.engine.evaluation.estimates import Estimate, estimate
from topwork.errors import ConfigurationError, PluginError
from topwork.html import html_table
from topwork.interfaces.head import Metric
from topwork.lab.tracking.finished_run import FinishedRun, find_runs
from topwork.plugin_file import not_trusted
from topwork.registry import Registry, discover


@dataclass(frozen=True)
class Comparison:
    """Several runs, each compared with the first.

    Attributes:
        names: of the runs.
        split: the rows that all were evaluated on.
        settings: what differs, by parameter, a value for each run; None where a run has no such parameter.
        estimates: for each metric that all runs have, ``<task>/<metric>``, an estimate for each run.
        differences: for the same metrics, a difference from the first run for each other run.
    """

    names: tuple[str, ...]
    split: str
    settings: dict[str, list[str | None]]
    estimates: dict[str, list[Estimate]]
    differences: dict[str, list[Difference]]

    def _repr_html_(self) -> str:
        """Show settings that differ and differences from the first run, for notebooks."""
        settings = [(name, *("" if one is None else one for one in values)) for name, values in self.settings.items()]
        rows = [
            (metric, run, f"{estimate.value:.3f}", f"{one.value:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}")
            for metric, differences in self.differences.items()
            for run, estimate, one in zip(self.names[1:], self.estimates[metric][1:], differences, strict=True)
        ]
        columns = ("metric", "run", "#value", "#difference", "#95 % interval")
        first = html_table("settings that differ", ("setting", *self.names), settings)
        return first + html_table(f"{self.split} rows, differences from {self.names[0]}", columns, rows)


def compare(runs: Sequence[str], *, uri: str | None = None, trust_plugins: bool = False) -> Comparison:
    """Compare finished runs on the rows that they were evaluated on.

    Args:
        runs: two or more, by MLflow's run id or by name; the first is what the others are compared with.
        uri: the MLflow store; without it MLFLOW_TRACKING_URI, or else mlflow.db in the working directory.
        trust_plugins: whether the plugin files of runs, which are code, may run. Those that have run in this process
            already may.

    Raises:
        ConfigurationError: a run is not there, or they cannot be compared; or it has plugin files, and they are not
            trusted.
        PluginError: a run's head is not installed.
        StorageError: the store cannot be read.
    """
    if len(set(runs)) < max(2, len(runs)):
        raise ConfigurationError(f"name two or more different runs to compare, got {', '.join(runs) or 'none'}")
    finished = find_runs(runs, uri)
    first, *others = [run.outputs for run in finished]
    for run, other in zip(finished[1:], others, strict=True):
        if why := why_not_comparable(first, other):
            raise ConfigurationError(f"runs {finished[0].name} and {run.name} cannot be compared: {why}")
    registries = [_registry(run, trusted=trust_plugins) for run in finished]  # each with the text that it was run with
    estimates, differences = {}, {}
    for task in (task for task in first.labels if all(task in other.labels for other in others)):
        targets = first.targets[task]
        metrics = [_metrics(run, task, registry) for run, registry in zip(finished, registries, strict=True)]
        outputs = [run.outputs.by_seed(task) for run in finished]
        for name in (name for name in metrics[0] if all(name in having for having in metrics)):
            by_run = [(having[name], of_seeds) for having, of_seeds in zip(metrics, outputs, strict=True)]
            estimates[f"{task}/{name}"] = [estimate(metric, of_seeds, targets) for metric, of_seeds in by_run]
            differences[f"{task}/{name}"] = [difference(by_run[0], one, targets) for one in by_run[1:]]
    if not estimates:
        raise ConfigurationError(f"runs {', '.join(runs)} cannot be compared: their heads have no metric in common")
    return Comparison(
        names=tuple(run.name for run in finished),
        split=first.split,
        settings=differing([run.settings for run in finished]),
        estimates=estimates,
        differences=differences,
    )


def _registry(run: FinishedRun, *, trusted: bool) -> Registry:
    """Return what is installed, and the plugins of a run's own files.

    Raises:
        ConfigurationError: there are some, and they are not trusted.
    """
    if names := not_trusted(run.files, trusted=trusted):
        raise ConfigurationError(
            f"run {run.name} has plugin files of its own, code that runs when it is compared: {names}; read them among "
            "its artifacts, and if you trust them, compare with --trust-plugins, from Python with trust_plugins=True"
        )
    return discover(run.files)


def _metrics(run: FinishedRun, task: str, registry: Registry) -> dict[str, Metric]:
    """What the head of a run's task measures, by name."""
    try:
        head = registry.heads.parse(run.heads[task], problems=registry.problems)
    except ValueError as error:  # pydantic's is one too
        raise PluginError(f"run {run.name} needs the head of its task {task}: {error}") from None
    return metrics_of(head, run.outputs, task)
