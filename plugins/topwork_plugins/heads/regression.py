"""One or several real numbers: a perceptron that predicts them in units of the training rows' spread."""

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: Columns that are drawn, and points of each.
MAX_PANELS, MAX_POINTS = 6, 5000

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.functional.mse_loss,
    "mae": nn.functional.l1_loss,
    "huber": nn.functional.huber_loss,
}


class RegressionConfig(topwork.HeadConfig):
    """Settings of the head ``regression``.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
        loss: ``mse`` (squared error), ``mae`` (absolute error), or ``huber`` (squared up to one standard deviation of
            the training rows, absolute beyond); of errors in standard deviations, averaged over the columns.
    """

    kind: Literal["regression"] = "regression"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)
    loss: Literal["mse", "mae", "huber"] = "mse"

    label_spaces: ClassVar = (topwork.Numbers,)

    def build(self, width: int, labels: topwork.Numbers) -> topwork.Head:
        columns, scale = len(labels.names), torch.tensor(labels.scale)
        perceptron = topwork.mlp(width, columns, hidden=self.hidden, activation=self.activation, dropout=self.dropout)

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            unit = scale.to(outputs)
            return _LOSSES[self.loss](outputs / unit, targets / unit)

        def decode(outputs: Tensor) -> topwork.Decoded:
            rows = outputs.tolist()
            if columns == 1:
                return topwork.Decoded([number for (number,) in rows])
            return topwork.Decoded([dict(zip(labels.names, row, strict=True)) for row in rows])

        return topwork.Head(
            module=nn.Sequential(perceptron, Unscale(torch.tensor(labels.mean), scale)),
            loss=loss,
            decode=decode,
            metrics=[
                topwork.Metric("rmse", _rmse, greater_is_better=False),
                topwork.Metric("mae", _absolute_errors, greater_is_better=False),
                topwork.Metric("pearson", lambda outputs, targets: pearson(outputs, targets).mean()),
                topwork.Metric("spearman", lambda outputs, targets: pearson(_ranks(outputs), _ranks(targets)).mean()),
                topwork.Metric("r2", lambda outputs, targets: _r2(outputs, targets).mean()),
            ],
            figures=[topwork.HeadFigure("scatter", _draw, _table)],
        )


class Unscale(nn.Module):
    """Turns standard deviations from the mean (B, C) into numbers in their own units."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, deviations: Tensor) -> Tensor:
        return self.mean + self.scale * deviations


def pearson(some: Tensor, others: Tensor) -> Tensor:
    """Return the correlation of each column of two (N, C), shape (C,); NaN where one is constant."""
    one, other = ((values - values.mean(0)).double() for values in (some, others))
    return ((one * other).sum(0) / (one.square().sum(0) * other.square().sum(0)).sqrt()).float()


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
    """Return the share of each column's variance that is explained, (C,)."""
    left = (targets - outputs).square().double().sum(0)
    return (1 - left / (targets - targets.mean(0)).square().double().sum(0)).float()


def _draw(outputs: Tensor, targets: Tensor, labels: topwork.Numbers) -> "Figure":
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


def _table(outputs: Tensor, targets: Tensor, labels: topwork.Numbers) -> str:
    """Write what is measured of each column as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["column", "rmse", "mae", "pearson", "r2"])
    columns = zip(labels.names, (outputs - targets).T, pearson(outputs, targets), _r2(outputs, targets), strict=True)
    for name, error, correlation, explained in columns:
        measured = (error.square().mean().sqrt(), error.abs().mean(), correlation, explained)
        writer.writerow([name, *(f"{float(value):.6g}" for value in measured)])
    return buffer.getvalue()


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(RegressionConfig)
