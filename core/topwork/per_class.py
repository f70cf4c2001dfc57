"""Precision, recall and F1 of each class or label, bounded in time and memory for any number of them."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topwork.building_blocks import PredictClass, argmax_class
from topwork.fonts import families_for
from topwork.interfaces.head import HeadFigure
from topwork.interfaces.labels import Classes, LabelSet

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: Classes that are drawn: the most frequent ones.
MAX_DRAWN = 30

#: Characters of a name.
MAX_CHARACTERS = 24


@dataclass(frozen=True)
class ClassCounts:
    """How often each of C classes or labels was predicted, was true, and was both.

    Attributes:
        predicted, true, hits: (C,) each.
    """

    predicted: Int[Tensor, " C"]
    true: Int[Tensor, " C"]
    hits: Int[Tensor, " C"]

    @property
    def precision(self) -> Float[Tensor, " C"]:
        """The share of the predicted that are true; NaN where none was predicted."""
        return self.hits / self.predicted

    @property
    def recall(self) -> Float[Tensor, " C"]:
        """The share of the true that were predicted; NaN where there are none."""
        return self.hits / self.true

    @property
    def f1(self) -> Float[Tensor, " C"]:
        """The harmonic mean of both; NaN where none was predicted nor true."""
        return 2 * self.hits / (self.predicted + self.true)


def per_class_figure(predict: PredictClass = argmax_class) -> HeadFigure:
    """Return precision, recall and F1 of each class, as a figure and a table named ``per_class``.

    Args:
        predict: maps outputs (N, C) to the number of the predicted class, (N,) int64.
    """

    def count(outputs: Tensor, targets: Tensor, labels: Classes) -> ClassCounts:
        predicted, classes = predict(outputs), len(labels.names)
        hits = targets[predicted == targets]
        return ClassCounts(*(torch.bincount(numbers, minlength=classes) for numbers in (predicted, targets, hits)))

    return _figure("per_class", count)


def per_label_figure(predict: Callable[[Tensor], Tensor]) -> HeadFigure:
    """Return precision, recall and F1 of each label of a set, as a figure and a table named ``per_label``.

    Args:
        predict: maps outputs (N, C) to which labels each text has, (N, C) bool.
    """

    def count(outputs: Tensor, targets: Tensor, labels: LabelSet) -> ClassCounts:
        predicted, true = predict(outputs), targets > 0
        return ClassCounts(predicted.sum(0), true.sum(0), (predicted & true).sum(0))

    return _figure("per_label", count)


def _figure(name: str, count: Callable[[Tensor, Tensor, Any], ClassCounts]) -> HeadFigure:
    def draw(outputs: Tensor, targets: Tensor, labels: Any) -> "Figure":
        return draw_per_class(count(outputs, targets, labels), labels.names)

    def table(outputs: Tensor, targets: Tensor, labels: Any) -> str:
        return per_class_table(count(outputs, targets, labels), labels.names)

    return HeadFigure(name, draw, table)


def per_class_table(counts: ClassCounts, names: Sequence[str]) -> str:
    """Write a row for each class as CSV; what is not defined is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "rows", "predicted", "precision", "recall", "f1"])
    columns = torch.stack([counts.precision, counts.recall, counts.f1], dim=1).tolist()
    for name, true, predicted, shares in zip(
        names, counts.true.tolist(), counts.predicted.tolist(), columns, strict=True
    ):
        writer.writerow([name, true, predicted, *("" if share != share else f"{share:.6g}" for share in shares)])
    return buffer.getvalue()


def draw_per_class(counts: ClassCounts, names: Sequence[str]) -> "Figure":
    """Draw precision, recall and F1 of the 30 most frequent classes."""
    import matplotlib
    from matplotlib.figure import Figure

    chosen = counts.true.argsort(descending=True, stable=True)[:MAX_DRAWN].tolist()
    families = families_for([names[number] for number in chosen])
    shown = [f"{_short(names[n]) if families else n} ({int(counts.true[n]):,})" for n in chosen]
    with matplotlib.rc_context({"font.family": families or matplotlib.rcParams["font.family"]}):
        figure = Figure(figsize=(7, 1.4 + 0.28 * len(chosen)), layout="constrained")
        axes = figure.subplots()
        places = list(range(len(chosen)))
        axes.barh(places, counts.f1[chosen].nan_to_num().tolist(), color="0.85", label="F1")
        axes.scatter(counts.precision[chosen].tolist(), places, marker="|", s=90, color="tab:blue", label="precision")
        axes.scatter(counts.recall[chosen].tolist(), places, marker="x", s=30, color="tab:orange", label="recall")
        axes.set_yticks(places, shown, parse_math=False)  # a $ in a name is a dollar
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.02), xlabel="score", ylabel="rows" if not families else None)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    more = len(names) - len(chosen)
    if more:
        axes.set_title(f"{more:,} less frequent ones are in the table", fontsize=9)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= MAX_CHARACTERS else f"{name[: MAX_CHARACTERS - 1]}…"
