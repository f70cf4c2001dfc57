"""What a finished run hands to whoever reports it."""

from dataclasses import dataclass
from pathlib import Path

from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.observer import Epoch
from topwork.errors import StorageError


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
        epochs: what each epoch gave.
        best_epoch: the one whose weights the model has.
        warnings: what the researcher should know, with counts.
    """

    name: str
    folder: Path
    run_id: str | None
    tracking_uri: str | None
    split: str
    estimates: dict[str, Estimate]
    epochs: list[Epoch]
    best_epoch: int
    warnings: list[str]


class UnsavedError(StorageError):
    """A run came to its end, but its model is not where it should be; the message says where it is.

    Attributes:
        result: what the run gave; its folder is where the model is, or should have been.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
