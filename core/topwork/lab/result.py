"""What a finished run hands to whoever reports it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.observer import Epoch
from topwork.errors import StorageError
from topwork.html import html_table


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        name: the run's name, in MLflow too.
        folder: the trained model; an empty path where none is to be saved.
        run_id: MLflow's, None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        split: the rows that the estimates are from: ``test``, else ``validation``, else ``training``.
        estimates: every metric with its interval, by ``<task>/<metric>``.
        epochs: what each epoch gave.
        best_epoch: the one whose weights the model has; with ``training.stop: per_task`` what is not a head's.
        best_epochs: of each task, whose weights its head has.
        metrics: of these weights, as the epochs have them.
        warnings: what the researcher should know, with counts.
        against_alone: by ``<task>/<metric>``, what training each task with the others gained over training it alone.
    """

    name: str
    folder: Path
    run_id: str | None
    tracking_uri: str | None
    split: str
    estimates: dict[str, Estimate]
    epochs: list[Epoch]
    best_epoch: int
    best_epochs: dict[str, int]
    metrics: dict[str, float]
    warnings: list[str]
    against_alone: dict[str, Difference] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Show the estimates, for notebooks."""
        epochs = f"weights of epoch {self.best_epoch} of {len(self.epochs)}"
        return html_of_estimates(f"{self.name}, {self.split} rows, {epochs}", self.estimates)


@dataclass(frozen=True)
class SeedsResult:
    """The outcome of a run with several seeds.

    Attributes:
        name: the run's name, in MLflow too.
        run_id: MLflow's, of the run that those of the seeds are below; None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        split: the rows that the estimates are from.
        estimates: by ``<task>/<metric>``, the mean over the seeds and its standard deviation, with an interval for
            other seeds and other rows.
        by_seed: the outcome of each seed.
        warnings: what the researcher should know, with counts.
        against_alone: see ``Result``, over all seeds.
    """

    name: str
    run_id: str | None
    tracking_uri: str | None
    split: str
    estimates: dict[str, Estimate]
    by_seed: dict[int, Result]
    warnings: list[str]
    against_alone: dict[str, Difference] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Show the estimates, for notebooks."""
        return html_of_estimates(
            f"{self.name}, {self.split} rows, means over {len(self.by_seed)} seeds", self.estimates
        )


class UnsavedError(StorageError):
    """A run came to its end, but its model is not where it should be; the message says where it is.

    Attributes:
        result: what the run gave; its folder is where the model is, or should have been.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def html_of_estimates(title: str, estimates: Mapping[str, Estimate]) -> str:
    """Return metrics with their intervals as a table."""
    rows = [
        (*name.rpartition("/")[::2], f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", f"{one.rows:,}")
        for name, one in estimates.items()
    ]
    return html_table(title, ("task", "metric", "#value", "#95 % interval", "#rows"), rows)
