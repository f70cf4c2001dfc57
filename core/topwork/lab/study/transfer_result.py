"""What came of training every task alone, every pair, and all together."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate

#: The columns of the matrix as a table.
COLUMNS = ("task", "with", "metric", "alone", "gain", "low", "high", "verdict", "seeds")

#: The partner of a task that stands for all others together.
ALL = "all together"


@dataclass(frozen=True)
class TransferResult:
    """What tasks gained from each other.

    Attributes:
        name: of the study, in MLflow too.
        folder: where its files are.
        metrics: of each task, the one that is compared.
        alone: of each task, that metric where it was trained alone.
        gains: by task and partner, what training with it gained over training alone, so that more is better; the
            partner ``all together`` stands for all others. What could not be trained is left out.
        seeds: with which everything was trained.
        trainings: how many there were, of all seeds.
        training_seconds: of all of them, in the training loops.
        seconds: how long this took from beginning to end, in this process.
        encoding_seconds: of them, for encoding texts.
        run_id: MLflow's, None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        warnings: what the researcher should know.
    """

    name: str
    folder: Path
    metrics: dict[str, str]
    alone: dict[str, Estimate]
    gains: dict[tuple[str, str], Difference]
    seeds: tuple[int, ...]
    trainings: int
    training_seconds: float
    seconds: float
    encoding_seconds: float
    run_id: str | None
    tracking_uri: str | None
    warnings: list[str]

    @property
    def rows(self) -> list[dict[str, object]]:
        """The matrix as a table: a row for each task and partner."""
        return [
            {"task": task, "with": partner, "metric": self.metrics[task], "alone": self.alone[task].value}
            | {"gain": gain.value, "low": gain.low, "high": gain.high, "verdict": verdict(gain), "seeds": gain.seeds}
            for (task, partner), gain in self.gains.items()
        ]

    @property
    def partners(self) -> list[str]:
        """The columns of the matrix: the tasks, and all together where that was trained."""
        return [*self.alone, *([ALL] if any(partner == ALL for _, partner in self.gains) else [])]


def verdict(gain: Difference) -> str:
    """Say what an interval says."""
    if math.isnan(gain.low):
        return "no interval"
    return "helps" if gain.low > 0 else "hurts" if gain.high < 0 else "cannot be told"


def as_csv(result: TransferResult) -> str:
    """Return the matrix as CSV, in full precision."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    return file.getvalue()
