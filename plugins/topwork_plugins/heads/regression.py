"""One or several real numbers: a perceptron that predicts them in units of the training rows' spread."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork

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
            metrics=topwork.number_metrics(),
            figures=[topwork.scatter_figure()],
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


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(RegressionConfig)
