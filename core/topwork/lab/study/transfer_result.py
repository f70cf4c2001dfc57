"""What came of training every task alone, every pair, and all together."""

import math
from dataclasses import dataclass

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.study.grid_result import GridResult

#: The columns of the matrix as a table.
COLUMNS = ("task", "with", "metric", "alone", "gain", "low", "high", "verdict", "seeds")

#: The partner of a task that stands for all others together.
ALL = "all together"


@dataclass(frozen=True, kw_only=True)
class TransferResult(GridResult):
    """What tasks gained from each other.

    Attributes:
        metrics: of each task, the one that is compared.
        alone: of each task, that metric where it was trained alone.
        gains: by task and partner, what training with it gained over training alone, so that more is better; the
            partner ``all together`` stands for all others. What could not be trained is left out.
        trainings: how many there were, of all seeds.
    """

    columns = COLUMNS

    metrics: dict[str, str]
    alone: dict[str, Estimate]
    gains: dict[tuple[str, str], Difference]
    trainings: int

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
