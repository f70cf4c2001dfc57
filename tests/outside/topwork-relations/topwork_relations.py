from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import topwork


class Relation(nn.Module):
    """Compares two vectors by difference and product (Conneau et al. 2017)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.perceptron = topwork.mlp(4 * width, classes, hidden=[64])

    def forward(self, pairs: Tensor) -> Tensor:  # (B, 2, W) -> (B, C)
        first, second = pairs.unbind(dim=1)
        outputs: Tensor = self.perceptron(torch.cat([first, second, (first - second).abs(), first * second], dim=1))
        return outputs


class RelationConfig(topwork.HeadConfig):
    kind: Literal["relation"] = "relation"
    reads: ClassVar = "two pooled"

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        return topwork.Head(
            module=Relation(width, len(labels.names)),
            loss=nn.functional.cross_entropy,
            decode=topwork.decode_logits(labels),
            metrics=topwork.class_metrics(len(labels.names)),
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(RelationConfig)
