"""The matrix of gains, as rows and as CSV."""

import csv
import io
import math

import pytest

from topwork.lab.study.transfer_result import ALL, verdict
from transfer_helpers import GAINS, gain, result_of


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "helps"),
        (-0.2, -0.01, "hurts"),
        (-0.1, 0.1, "cannot be told"),
        (0.0, 0.0, "cannot be told"),
        (math.nan, math.nan, "no interval"),
    ],
)
def test_an_interval_says_whether_a_partner_helps(low: float, high: float, expected: str) -> None:
    assert verdict(gain(0.0, low, high)) == expected


def test_rows_have_each_task_and_partner() -> None:
    result = result_of(GAINS)
    assert [(row["task"], row["with"], row["verdict"]) for row in result.rows] == [
        ("a", "b", "helps"),
        ("b", "a", "hurts"),
        ("a", ALL, "cannot be told"),
    ]
    assert result.partners == ["a", "b", "c", ALL]
    assert result_of({("a", "b"): GAINS["a", "b"]}, ("a", "b")).partners == ["a", "b"]


def test_csv_has_all_digits() -> None:
    rows = list(csv.DictReader(io.StringIO(result_of({("a", "b"): gain(1 / 3, 0.1, 0.5)}).as_csv())))
    assert float(rows[0]["gain"]) == 1 / 3
    assert rows[0]["with"] == "b"
