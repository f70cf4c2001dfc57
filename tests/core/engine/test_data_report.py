"""What rows are like is counted by source, split and task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from topwork.data.texts import Words
from topwork.engine.data_report import Conflict, DataReport
from topwork.engine.preparation import describe_rows
from topwork.experiment.schema import Experiment
from topwork.registry import Registry, discover
from topwork.testing.tiny import TinyBackboneConfig

FILMS = "text,mood,tags,stars\ngood,pos,a|b,4\nbad,neg,b,1\ngood,neg,,5\ngood,pos,a,4\n" + "x" * 40 + ",neg,b,2\n"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture
def report(registry: Registry, write: Callable[..., Path]) -> DataReport:
    """Two sources, of which the second has pairs and labels that are missing."""
    pairs = [
        {"first": "ab", "second": "cd", "votes": {"yes": 3, "no": 1}},
        {"first": "ab", "second": "cd", "votes": {"yes": 1}},
        {"first": "ef", "second": "gh", "votes": {"no": 1}},
        {"first": "ef", "second": "gh", "votes": None},
    ]
    jsonl = "".join(json.dumps(row) + "\n" for row in pairs)
    films, more = write("films.csv", FILMS), write("more.csv", "text,mood,tags,stars\nbad,neg,a,3\n")
    raw: dict[str, Any] = {
        "name": "small",
        "data": {
            "films": {"train": str(films), "test": str(more)},
            "pairs": {"path": str(write("pairs.jsonl", jsonl)), "text": ["first", "second"], "split": {"test": 0}},
        },
        "backbone": TinyBackboneConfig(),
        "tasks": {
            "mood": {"label": "mood", "source": "films"},
            "tags": {
                "label": "tags",
                "source": "films",
                "missing": "skip",
                "labels": {"separator": "|"},
                "head": {"kind": "multilabel"},
            },
            "stars": {"label": "stars", "source": "films", "head": {"kind": "regression"}},
            "votes": {"label": "votes", "source": "pairs", "missing": "skip"},
        },
    }
    return describe_rows(Experiment.model_validate(raw, context={"registry": registry}))


def test_each_source_has_its_rows_and_lengths_by_split(report: DataReport) -> None:
    films, pairs, test = report.sources
    assert (films.source, films.split, films.rows, films.distinct) == ("films", "train", 5, 3)
    assert (films.tokens_median, films.tokens_max, films.truncated) == (6, 32, 1)
    assert (pairs.source, pairs.rows, pairs.distinct, pairs.tokens_max) == ("pairs", 3, 2, 7)
    assert (test.source, test.split, test.rows, test.tokens_median) == ("films", "test", 1, 5)


def test_each_task_has_its_labels_by_split(report: DataReport) -> None:
    found = {(task.task, task.split): task for task in report.tasks}
    assert found["mood", "train"].labels == {"neg": 3, "pos": 2}
    assert found["mood", "test"].labels == {"neg": 1, "pos": 0}
    assert (found["tags", "train"].rows, found["tags", "train"].labelled) == (5, 4)
    assert found["tags", "train"].labels == {"a": 2, "b": 3}
    stars = found["stars", "train"].labels["stars"]
    assert (stars["min"], stars["max"], stars["mean"]) == (1, 5, pytest.approx(3.2))
    assert found["votes", "train"].labels == {"no": pytest.approx((0.25 + 0 + 1) / 3), "yes": pytest.approx(1.75 / 3)}
    assert ("votes", "test") not in found or found["votes", "test"].labels == {}


def test_equal_texts_with_different_labels_are_found(report: DataReport) -> None:
    assert report.conflicting == {"mood": 1, "tags": 2, "stars": 2, "votes": 1}
    assert report.conflicts[0] == Conflict("mood", "good", {"pos": 2, "neg": 1})
    assert Conflict("tags", "good", {"a, b": 1, "a": 1}) in report.conflicts
    assert Conflict("stars", "good", {"4": 2, "5": 1}) in report.conflicts
    assert Conflict("votes", ("ab", "cd"), {"no 0.25, yes 0.75": 1, "yes": 1}) in report.conflicts


def test_what_else_is_known_of_the_files_is_told(report: DataReport) -> None:
    assert any("1 of 1 test texts of films also occur in train of films" in one for one in report.warnings)
    assert any("1 of 4 rows have no label of any task and were left out" in one for one in report.warnings)


def test_a_report_is_json(report: DataReport) -> None:
    assert json.loads(json.dumps(report.dump()))["tasks"][0]["labels"] == {"neg": 3, "pos": 2}


def test_words_are_counted_one_by_one_and_compared_text_by_text(registry: Registry, write: Callable[..., Path]) -> None:
    rows = [
        {"words": ["a", "cat"], "tags": ["DET", "NOUN"]},
        {"words": ["a", "cat"], "tags": ["DET", None]},
        {"words": ["cats"], "tags": ["NOUN"]},
    ]
    path = write("rows.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    raw = {
        "name": "small",
        "data": {"rows": {"path": str(path), "words": "words", "split": {"test": 0}}},
        "backbone": TinyBackboneConfig(),
        "tasks": {"tag": {"label": "tags", "missing": "skip", "head": {"kind": "tagging"}}},
    }
    found = describe_rows(Experiment.model_validate(raw, context={"registry": registry}))
    (task,) = found.tasks
    assert (task.labelled, task.items, task.labels) == (3, 4, {"DET": 2, "NOUN": 2})
    assert found.conflicts == (Conflict("tag", Words(("a", "cat")), {"DET NOUN": 1, "DET": 1}),)
    assert found.dump()["conflicts"][0]["text"] == {"words": ("a", "cat")}
