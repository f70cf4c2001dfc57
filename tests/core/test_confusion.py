"""A confusion matrix shows each count, and is bounded for any number of classes."""

import csv
import io
import resource
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from torch import nn

import topwork
from topwork.confusion import (
    LISTED,
    MAX_CELLS,
    MAX_TICKS,
    MAX_WRITTEN,
    ConfusionCounts,
    confusion_table,
    count_confusions,
    draw_confusion_matrix,
)

MOODS = ("bad", "fair", "good")
COUNTS = [[50, 3, 0], [1, 7, 2], [0, 0, 30]]


def sparse(matrix: list[list[int]]) -> ConfusionCounts:
    counts = torch.tensor(matrix)
    true, predicted = counts.nonzero().unbind(dim=1)
    return ConfusionCounts(true, predicted, counts[true, predicted])


def moods() -> Axes:
    return draw_confusion_matrix(sparse(COUNTS), MOODS).axes[0]


def written_in(axes: Axes) -> list[list[int]]:
    """The counts that are written into the cells, row by row."""
    cells = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    size = max(row for row, _ in cells) + 1
    assert len(cells) == size**2
    return [[int(cells[row, column]) for column in range(size)] for row in range(size)]


def as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_each_count_is_written_into_its_cell() -> None:
    assert written_in(moods()) == COUNTS


def test_true_classes_are_rows_and_predicted_ones_columns() -> None:
    axes = moods()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert tuple(label.get_text() for label in axes.get_xticklabels()) == MOODS
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == MOODS


def test_counts_on_dark_cells_are_white() -> None:
    colors = {text.get_text(): to_hex(text.get_color()) for text in moods().texts}
    assert colors["50"] == colors["30"] == "#ffffff"
    assert colors["7"] == colors["0"] == "#000000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["no", "yes"], [[0, 0], [0, 0]]),
        (["no", "yes"], [[1, 0], [0, 1]]),
        ([f"a class with a rather long name {number}" for number in range(20)], [[1] * 20] * 20),
        (["$\\frac$", "50 $ or more"], [[2, 1], [0, 3]]),
        (["\u6b63\u9762", "\u0e44\u0e17\u0e22"], [[2, 1], [0, 3]]),
    ],
    ids=["nothing", "two", "twenty", "dollars", "Chinese and Thai"],
)
def test_any_confusion_becomes_a_png(names: list[str], counts: list[list[int]]) -> None:
    assert as_png(draw_confusion_matrix(sparse(counts), names)).startswith(b"\x89PNG")


@settings(max_examples=20)  # drawing takes its time
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_a_confusion_figure_counts_as_scikit_learn_does(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = torch.tensor(pairs).unbind(dim=1)
    figure = topwork.confusion_figure()
    outputs = nn.functional.one_hot(predicted, 3).float()
    drawn = figure.draw(outputs, targets, topwork.Classes(MOODS))
    assert figure.name == "confusion"
    assert written_in(drawn.axes[0]) == confusion_matrix(targets, predicted, labels=range(3)).tolist()


def test_a_confusion_figure_follows_the_prediction_that_it_is_given() -> None:
    figure = topwork.confusion_figure(lambda outputs: (outputs[:, 0] > 0).long())
    outputs, targets = torch.tensor([[-1.0], [2.0], [3.0]]), torch.tensor([1, 1, 0])
    labels = topwork.Classes(("no", "yes"))
    drawn = figure.draw(outputs, targets, labels)
    assert written_in(drawn.axes[0]) == [[0, 1], [1, 1]]
    assert figure.table is not None
    assert figure.table(outputs, targets, labels).splitlines()[1:] == ["no,yes,1,0,1", "yes,no,1,1,0", "yes,yes,1,1,1"]


def test_the_table_has_every_pair_that_occurs() -> None:
    rows = list(csv.DictReader(io.StringIO(confusion_table(sparse(COUNTS), ["a, b", 'the "c"', "d"]))))
    assert [(row["true"], row["predicted"], int(row["count"])) for row in rows] == [
        ("a, b", "a, b", 50),
        ("a, b", 'the "c"', 3),
        ('the "c"', "a, b", 1),
        ('the "c"', 'the "c"', 7),
        ('the "c"', "d", 2),
        ("d", "d", 30),
    ]


def many(classes: int) -> tuple[ConfusionCounts, list[str]]:
    """Three rows of each class, of which one is taken for the next class."""
    targets = torch.arange(classes).repeat(3)
    predicted = torch.where(torch.arange(len(targets)) < classes, (targets + 1) % classes, targets)
    return count_confusions(predicted, targets, classes), [f"class {number}" for number in range(classes)]


def test_of_many_classes_the_largest_confusions_are_listed_in_place_of_counts_in_cells() -> None:
    counts, names = many(MAX_WRITTEN + 1)
    axes, beside = draw_confusion_matrix(counts, names).axes[:2]
    assert not axes.texts
    assert axes.images[0].get_array().tolist()[0][:3] == [2, 1, 0]
    (listed,) = beside.tables
    assert [listed[1, column].get_text().get_text() for column in range(3)] == ["class 0", "class 1", "1"]
    assert max(row for row, _ in listed.get_celld()) == LISTED


def test_the_largest_confusions_come_first_and_right_ones_are_none() -> None:
    assert sparse(COUNTS).largest() == [(0, 1, 3), (1, 2, 2), (1, 0, 1)]


def test_of_very_many_classes_neighbours_share_a_cell_and_some_are_named() -> None:
    counts, names = many(2 * MAX_CELLS + 1)
    axes = draw_confusion_matrix(counts, names).axes[0]
    matrix = axes.images[0].get_array()
    assert matrix.shape == (267, 267)  # three classes to a cell
    assert matrix.sum() == 3 * len(names)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert len(shown) <= MAX_TICKS
    assert shown[:2] == ["class 0", "class 27"]
    assert axes.get_xlabel() == "predicted (one class in 27 is named)"


@pytest.mark.slow
@pytest.mark.parametrize("classes", [77, 300, 10_000])
def test_a_figure_of_any_number_of_classes_takes_little_time_and_memory(classes: int) -> None:
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    counts, names = many(classes)
    assert len(as_png(draw_confusion_matrix(counts, names))) < 1_000_000
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB


def test_names_that_no_font_can_write_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topwork.confusion.families_for", lambda names: [])
    axes = draw_confusion_matrix(sparse(COUNTS), MOODS).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
