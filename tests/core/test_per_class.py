"""Precision, recall and F1 of each class are counted, written and drawn within bounds."""

import csv
import io
import math
from time import perf_counter

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

import topwork
from topwork.per_class import MAX_DRAWN, ClassCounts, draw_per_class, per_class_table

NAMES = ("a", "b", "$c$", "never")


def scores(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table)))


def test_the_scores_of_classes_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    targets, outputs = torch.randint(3, (60,), generator=generator), torch.randn(60, 4, generator=generator)
    outputs[:, 3] = -9.0  # predicted and true nowhere
    figure = topwork.per_class_figure()
    assert figure.table is not None
    rows = scores(figure.table(outputs, targets, topwork.Classes(NAMES)))
    assert [row["name"] for row in rows] == list(NAMES)
    wanted = precision_recall_fscore_support(targets.numpy(), outputs.argmax(1).numpy(), labels=range(3))
    for column, values in zip(("precision", "recall", "f1", "rows"), wanted, strict=True):
        assert [float(row[column]) for row in rows[:3]] == pytest.approx(list(values), abs=1e-5)
    assert [rows[3][column] for column in ("rows", "predicted", "precision", "recall", "f1")] == ["0", "0", "", "", ""]


def test_the_scores_of_labels_are_those_of_each_label_alone() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    outputs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    figure = topwork.per_label_figure(lambda outputs: outputs > 0)
    assert figure.table is not None
    first, second = scores(figure.table(outputs, targets, topwork.LabelSet(("a", "b"))))
    assert (first["rows"], first["predicted"], first["precision"], first["recall"]) == ("2", "1", "1", "0.5")
    assert (second["precision"], second["recall"], second["f1"]) == ("0.5", "0.5", "0.5")


def counts(classes: int) -> ClassCounts:
    hits = torch.arange(classes)
    return ClassCounts(predicted=hits + 2, true=hits + 1, hits=hits)


def test_the_most_frequent_classes_are_drawn_with_their_rows() -> None:
    drawn = draw_per_class(counts(4), NAMES)
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["never (4)", "$c$ (3)", "b (2)", "a (1)"]
    drawn.savefig(io.BytesIO(), format="png")


def test_many_classes_are_drawn_within_bounds() -> None:
    names = [f"class {number}" for number in range(10_000)]
    started = perf_counter()
    drawn = draw_per_class(counts(10_000), names)
    drawn.savefig(io.BytesIO(), format="png")
    assert perf_counter() - started < 20
    (axes,) = drawn.axes
    assert len(axes.get_yticks()) == MAX_DRAWN
    assert axes.get_title() == "9,970 less frequent ones are in the table"
    assert len(scores(per_class_table(counts(10_000), names))) == 10_000


def test_what_is_not_defined_is_not_a_number() -> None:
    nothing = ClassCounts(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert [math.isnan(value) for value in nothing.f1.tolist()] == [True, False]
