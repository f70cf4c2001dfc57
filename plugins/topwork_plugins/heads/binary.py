"""One of two classes: a perceptron with one output, sigmoid, and binary cross-entropy on the logit."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork


class BinaryConfig(topwork.HeadConfig):
    """Settings of the head ``binary``. The logit is that of the second class in sorted order.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
    """

    kind: Literal["binary"] = "binary"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        if len(labels.names) != 2:
            raise ValueError(
                f"a binary head needs 2 classes, but the training rows have {len(labels.names)}: "
                f"{', '.join(labels.names)}; use {{kind: classification}}"
            )

        def predict(outputs: Tensor) -> Tensor:
            return (outputs[:, 0] > 0).long()  # (N,)

        def decode(outputs: Tensor) -> topwork.Decoded:
            second = outputs.sigmoid()  # (N, 1)
            return topwork.Decoded([labels.names[i] for i in predict(outputs)], torch.cat([1 - second, second], dim=1))

        return topwork.Head(
            module=topwork.mlp(width, 1, hidden=self.hidden, activation=self.activation, dropout=self.dropout),
            loss=lambda outputs, targets: nn.functional.binary_cross_entropy_with_logits(
                outputs[:, 0], targets.to(outputs)
            ),
            decode=decode,
            metrics=topwork.class_metrics(2, predict),
            figures=[topwork.confusion_figure(predict)],
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(BinaryConfig)
