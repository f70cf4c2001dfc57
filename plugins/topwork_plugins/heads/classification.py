"""One class out of several: a perceptron, softmax, and cross-entropy on the logits."""

from typing import Literal

from pydantic import Field
from torch import nn

import topwork


class ClassificationConfig(topwork.HeadConfig):
    """Settings of the head ``classification``.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
    """

    kind: Literal["classification"] = "classification"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        classes = len(labels.names)
        return topwork.Head(
            module=topwork.mlp(width, classes, hidden=self.hidden, activation=self.activation, dropout=self.dropout),
            loss=nn.functional.cross_entropy,
            decode=topwork.decode_logits(labels),
            metrics=topwork.class_metrics(classes),
            figures=[topwork.confusion_figure()],
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(ClassificationConfig)
