from typing import Literal

import torch
from torch import Tensor, nn

import topwork


class Prototypes(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, width))

    def forward(self, vectors: Tensor) -> Tensor:  # (B, W) -> (B, C)
        return -torch.cdist(vectors, self.centres)


class PrototypesConfig(topwork.HeadConfig):
    kind: Literal["prototypes"] = "prototypes"

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        classes = len(labels.names)
        return topwork.Head(
            module=Prototypes(width, classes),
            loss=nn.functional.cross_entropy,
            decode=topwork.decode_logits(labels),
            metrics=topwork.class_metrics(classes),
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(PrototypesConfig)
