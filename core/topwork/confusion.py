"""The confusion matrix of a head for classes, bounded in time and memory for any number of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from topwork.building_blocks import PredictClass, argmax_class
from topwork.fonts import families_for
from topwork.interfaces.head import HeadFigure
from topwork.interfaces.labels import Classes

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Classes up to which counts are written into the cells.
MAX_WRITTEN = 30

#: Cells of a row: where there are more classes, neighbours share a cell.
MAX_CELLS = 400

#: Names beside an axis, and characters of a name.
MAX_TICKS, MAX_CHARACTERS = 30, 24

#: The confusions that are listed where counts are not written into the cells.
LISTED = 20


@dataclass(frozen=True)
class ConfusionCounts:
    """How often each pair of classes occurs; P pairs occur at all.

    Attributes:
        true: (P,) the number of the true class.
        predicted: (P,) the number of the predicted class.
        count: (P,) how often, at least 1.
    """

    true: Int[Tensor, " P"]
    predicted: Int[Tensor, " P"]
    count: Int[Tensor, " P"]

    def largest(self) -> list[tuple[int, int, int]]:
        """Return true class, predicted class and count of all confusions, the most frequent first."""
        wrong = (self.true != self.predicted).nonzero()[:, 0]
        order = wrong[self.count[wrong].argsort(descending=True, stable=True)]
        return [(int(self.true[at]), int(self.predicted[at]), int(self.count[at])) for at in order[:LISTED]]


def confusion_figure(predict: PredictClass = argmax_class) -> HeadFigure:
    """Return the confusion matrix of a head for classes, as a figure and a table named ``confusion``.

    Args:
        predict: maps outputs (N, C) to the number of the predicted class, (N,) int64.
    """

    def draw(outputs: Tensor, targets: Tensor, labels: Classes) -> "Figure":
        return draw_confusion_matrix(count_confusions(predict(outputs), targets, len(labels.names)), labels.names)

    def table(outputs: Tensor, targets: Tensor, labels: Classes) -> str:
        return confusion_table(count_confusions(predict(outputs), targets, len(labels.names)), labels.names)

    return HeadFigure("confusion", draw, table)


def count_confusions(predicted: Int[Tensor, " N"], targets: Int[Tensor, " N"], classes: int) -> ConfusionCounts:
    """Count the pairs of true and predicted classes that occur, ordered by true class and then by predicted."""
    pairs, count = torch.unique(targets * classes + predicted, return_counts=True)
    return ConfusionCounts(pairs // classes, pairs % classes, count)


def confusion_table(counts: ConfusionCounts, names: Sequence[str]) -> str:
    """Write every pair that occurs as CSV, with the classes' numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["true", "predicted", "count", "true_number", "predicted_number"])
    for true, predicted, count in torch.stack([counts.true, counts.predicted, counts.count], dim=1).tolist():
        writer.writerow([names[true], names[predicted], count, true, predicted])
    return buffer.getvalue()


def draw_confusion_matrix(counts: ConfusionCounts, names: Sequence[str]) -> "Figure":
    """Draw counts of true (rows) against predicted (columns) classes.

    Up to 30 classes have their counts in the cells. With more the largest confusions are listed beside the matrix, and
    with more than 400 several share a cell. Where no installed font has the characters of the names, classes have
    their numbers.
    """
    import matplotlib
    from matplotlib.figure import Figure

    families = families_for(names)
    shown = [_short(name) for name in names] if families else [str(number) for number in range(len(names))]
    with matplotlib.rc_context({"font.family": families or matplotlib.rcParams["font.family"]}):
        if len(names) <= MAX_WRITTEN:
            size = max(3.2, 0.55 * len(names) + 1.6)
            figure = Figure(figsize=(size + 0.6, size), layout="constrained")
            axes = figure.subplots()
            _draw_matrix(axes, counts, shown)
        else:
            figure = Figure(figsize=(14, 8), layout="constrained")
            axes, beside = figure.subplots(1, 2, width_ratios=(3, 2))
            _draw_matrix(axes, counts, shown)
            _list_largest(beside, counts, shown)
    return figure


def _draw_matrix(axes: "Axes", counts: ConfusionCounts, names: Sequence[str]) -> None:
    classes = len(names)
    share = -(-classes // MAX_CELLS)  # classes in a cell, along each side
    cells = -(-classes // share)
    matrix = torch.zeros(cells, cells, dtype=torch.int64)
    matrix.index_put_((counts.true // share, counts.predicted // share), counts.count, accumulate=True)
    image = axes.imshow(matrix.numpy(), cmap="Blues", vmin=0)
    if classes <= MAX_WRITTEN:
        for row, line in enumerate(matrix.tolist()):
            for column, count in enumerate(line):
                color = "white" if count > int(matrix.max()) / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    step = -(-cells // MAX_TICKS)
    ticks = range(0, cells, step)
    some = [names[tick * share] for tick in ticks]
    axes.set_xticks(ticks, some, rotation=45, ha="right", parse_math=False)  # a $ in a class name is a dollar
    axes.set_yticks(ticks, some, parse_math=False)
    each = "" if step * share == 1 else f" (one class in {step * share} is named)"
    axes.set(xlabel=f"predicted{each}", ylabel=f"true{each}")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _list_largest(axes: "Axes", counts: ConfusionCounts, names: Sequence[str]) -> None:
    axes.axis("off")
    axes.set_title("largest confusions")
    largest = [[names[true], names[predicted], str(count)] for true, predicted, count in counts.largest()]
    if largest:
        table = axes.table(
            largest, colLabels=["true", "predicted", "count"], colWidths=[0.42, 0.42, 0.16], loc="upper center"
        )
        for cell in table.get_celld().values():
            cell.get_text().set_parse_math(False)


def _short(name: str) -> str:
    return name if len(name) <= MAX_CHARACTERS else f"{name[: MAX_CHARACTERS - 1]}…"
