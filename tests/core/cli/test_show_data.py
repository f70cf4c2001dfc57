"""``topwork data`` shows what rows are like, for people and for programs."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from topwork.cli.show_data import describe_labels
from topwork.engine.data_report import TaskReport

QUICKSTART = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"

Command = Callable[..., tuple[int, str, str]]


def test_data_is_shown_by_source_and_by_task(command: Command) -> None:
    code, out, _ = command("data", QUICKSTART)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert any(line[:4] == ["reviews", "train", "432", "432"] for line in lines)
    assert any(line[:5] == ["sentiment", "reviews", "test", "180", "180"] for line in lines)
    assert "neg" in out


@pytest.mark.slow
def test_data_is_written_for_programs(command: Command) -> None:
    code, out, _ = command("data", QUICKSTART, "--format", "json")
    report = json.loads(out)
    assert code == 0
    assert {one["split"]: one["rows"] for one in report["sources"]} == {"train": 432, "validation": 108, "test": 180}
    code, out, _ = command("data", QUICKSTART, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    (sentiment,) = [task for task in report["tasks"] if (task["task"], task["split"]) == ("sentiment", "train")]
    assert {
        row["label"]: int(row["value"]) for row in rows if (row["task"], row["split"]) == ("sentiment", "train")
    } == sentiment["labels"]


def test_a_typo_is_told_before_anything_is_read(command: Command) -> None:
    code, _, err = command("data", QUICKSTART, "--set", "data.reviews.txt=a")
    assert code == 2
    assert "data.reviews.txt: unknown key; did you mean text?" in err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"neg": 30, "pos": 10}, "neg 30 (75%), pos 10 (25%)"),
        ({"yes": 0.25, "no": 0.75}, "no 75%, yes 25%"),
        ({"x": {"mean": 2.5, "sd": 1.25, "min": 0.0, "max": 5.0}}, "x: mean 2.5, sd 1.25, 0 to 5"),
        ({str(number): 4 for number in range(10)}, ", ".join(f"{n} 4 (10%)" for n in range(8)) + ", and 2 more"),
        ({}, ""),
    ],
)
def test_labels_are_described_with_the_most_frequent_first(labels: dict[str, object], said: str) -> None:
    assert describe_labels(TaskReport("a", "rows", "train", 40, 40, 40, labels)) == said


def test_shares_of_words_are_of_all_words() -> None:
    report = TaskReport("a", "rows", "train", 40, 40, 200, {"NOUN": 150, "VERB": 50})
    assert describe_labels(report) == "NOUN 150 (75%), VERB 50 (25%)"
