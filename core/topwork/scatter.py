"""What is measured and drawn of heads for numbers."""

import csv
import io
import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from topwork.interfaces.head import HeadFigure, Metric
from topwork.interfaces.labels import Numbers

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: Columns that are drawn, and points of each.
MAX_PANELS, MAX_POINTS = 6, 5000


def number_metrics() -> tuple[Metric, ...]:
    """Return root mean squared error, mean absolute error, Pearson's and Spearman's correlation, and R².

    Each is averaged over the columns. Outputs are (N, C) as targets are, in the same units.
    """
    return (
        Metric("rmse", _rmse, greater_is_better=False, bounds=(0, math.inf)),
        Metric("mae", _absolute_errors, greater_is_better=False, bounds=(0, math.inf)),
        Metric("pearson", lambda outputs, targets: pearson(outputs, targets).mean(), bounds=(-1, 1)),
        Metric("spearman", lambda outputs, targets: pearson(_ranks(outputs), _ranks(targets)).mean(), bounds=(-1, 1)),
        Metric("r2", lambda outputs, targets: _r2(outputs, targets).mean(), bounds=(-math.inf, 1)),
    )


def scatter_figure() -> HeadFigure:
    """Return predictions against targets, as a figure and a table named ``scatter``."""
    return HeadFigure("scatter", _draw, _table)


def pearson(some: Float[Tensor, "N C"], others: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """Return the correlation of each column of two (N, C), shape (C,); NaN where one is constant."""
    one, other = map(_deviations, (some, others))
    return ((one * other).sum(0) / (one.square().sum(0) * other.square().sum(0)).sqrt()).float()


def _deviations(values: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    """Return how far the numbers of a column are from their mean, in float64; NaN where all are equal."""
    exact = values.double()
    constant = exact.amax(dim=0) == exact.amin(dim=0)  # their mean need not be the same number
    return (exact - exact.mean(dim=0)).masked_fill(constant, torch.nan)


def _rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the root mean squared error, averaged over the columns, shape ()."""
    return (outputs - targets).square().mean(dim=0).sqrt().mean()


def _absolute_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the absolute error of each text, averaged over the columns, (N,)."""
    return (outputs - targets).abs().mean(dim=1)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each number in its column, (N, C); equal ones share the mean of theirs."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.numpy(), axis=0))


def _r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of each column's variance that is explained, (C,); NaN where targets are constant."""
    left = (targets.double() - outputs.double()).square().sum(0)
    return (1 - left / _deviations(targets).square().sum(0)).float()


def _draw(outputs: Tensor, targets: Tensor, labels: Numbers) -> "Figure":
    """Draw predictions against targets, for up to 6 columns and 5,000 texts evenly over the rows."""
    from matplotlib.figure import Figure

    names = labels.names[:MAX_PANELS]
    step = -(-len(outputs) // MAX_POINTS)
    figure = Figure(figsize=(4.2 * min(len(names), 3), 3.8 * -(-len(names) // 3)), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 3), min(len(names), 3), number + 1)
        true, predicted = targets[::step, number].tolist(), outputs[::step, number].tolist()
        ends = [min(true + predicted), max(true + predicted)]
        axes.plot(ends, ends, color="0.7", linewidth=1)
        axes.scatter(true, predicted, s=8, alpha=0.5, linewidths=0)
        axes.set_title(name, parse_math=False)
        axes.set(xlabel="true", ylabel="predicted")
    return figure


def _table(outputs: Tensor, targets: Tensor, labels: Numbers) -> str:
    """Write what is measured of each column as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["column", "rmse", "mae", "pearson", "r2"])
    columns = zip(labels.names, (outputs - targets).T, pearson(outputs, targets), _r2(outputs, targets), strict=True)
    for name, error, correlation, explained in columns:
        measured = (error.square().mean().sqrt(), error.abs().mean(), correlation, explained)
        writer.writerow([name, *(f"{float(value):.6g}" for value in measured)])
    return buffer.getvalue()
