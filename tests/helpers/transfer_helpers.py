"""Matrices of gains that nobody trained."""

from pathlib import Path

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.lab.study.transfer_result import ALL, TransferResult


def gain(value: float, low: float, high: float) -> Difference:
    return Difference(value, low, high, None, 5)


def result_of(gains: dict[tuple[str, str], Difference], tasks: tuple[str, ...] = ("a", "b", "c")) -> TransferResult:
    """What came of three tasks."""
    return TransferResult(
        name="x-transfer",
        folder=Path("x"),
        metrics=dict.fromkeys(tasks, "accuracy"),
        alone={task: Estimate(0.5 + number / 10, 0.4, 0.9, 100, 5) for number, task in enumerate(tasks)},
        gains=gains,
        seeds=(0, 1, 2, 3, 4),
        trainings=35,
        training_seconds=70.0,
        seconds=50.0,
        encoding_seconds=3.0,
        run_id=None,
        tracking_uri=None,
        warnings=["a warning"],
    )


GAINS = {("a", "b"): gain(0.1, 0.02, 0.2), ("b", "a"): gain(-0.1, -0.2, -0.05), ("a", ALL): gain(0.01, -0.1, 0.1)}
