"""One class out of several: a perceptron, softmax, and cross-entropy on the logits."""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

import topwork


class ClassificationConfig(topwork.HeadConfig):
    """Settings of the head ``classification``.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
    """

    kind: Literal["classification"] = "classification"
    hidden: tuple[PositiveInt, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        classes = len(labels.names)

        def decode(outputs: Tensor) -> topwork.Decoded:
            return topwork.Decoded([labels.names[i] for i in outputs.argmax(dim=1)], outputs.softmax(dim=1))

        return topwork.Head(
            module=topwork.mlp(width, classes, hidden=self.hidden, activation=self.activation, dropout=self.dropout),
            loss=nn.functional.cross_entropy,
            decode=decode,
            metrics=topwork.class_metrics(lambda outputs: outputs.argmax(dim=1), classes),
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(ClassificationConfig)
