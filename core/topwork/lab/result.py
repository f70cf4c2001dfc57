"""What a finished run hands to whoever reports it."""

from dataclasses import dataclass
from pathlib import Path

from topwork.engine.evaluation import Estimate
from topwork.engine.observer import Epoch


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        name: the run's name, in MLflow too.
        folder: the trained model.
        run_id: MLflow's, None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        split: the rows that the estimates are from: ``test``, else ``validation``, else ``training``.
        estimates: every metric with its interval, by ``<task>/<metric>``.
        confusion: for each task its class names and the counts, rows true and columns predicted.
        epochs: what each epoch gave.
        best: the epoch whose weights the model has.
        warnings: what the researcher should know, with counts.
    """

    name: str
    folder: Path
    run_id: str | None
    tracking_uri: str | None
    split: str
    estimates: dict[str, Estimate]
    confusion: dict[str, tuple[tuple[str, ...], list[list[int]]]]
    epochs: list[Epoch]
    best: int
    warnings: list[str]
