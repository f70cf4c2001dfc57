"""What every comparison of variants tells, whatever they differ in."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class GridResult(ABC):
    """What came of training variants, each with the same seeds.

    Attributes:
        columns: the names of the columns of ``rows``.
        name: of the study, in MLflow too.
        folder: where its files are.
        seeds: with which everything was trained.
        training_seconds: of all trainings, in the training loops.
        seconds: how long this took from beginning to end, in this process.
        encoding_seconds: of them, for encoding texts.
        run_id: MLflow's, None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        warnings: what the researcher should know.
    """

    columns: ClassVar[Sequence[str]]

    name: str
    folder: Path
    seeds: tuple[int, ...]
    training_seconds: float
    seconds: float
    encoding_seconds: float
    run_id: str | None
    tracking_uri: str | None
    warnings: list[str]

    @property
    @abstractmethod
    def rows(self) -> list[dict[str, object]]:
        """All of it as a table."""

    def as_csv(self) -> str:
        """Return the table as CSV, in full precision."""
        file = io.StringIO()
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return file.getvalue()
