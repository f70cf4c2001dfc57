"""A mean in which later tokens count more, for encoders whose tokens see only what is before them."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import topwork


class WeightedMeanPooling(topwork.Pooling):
    """Averages over the tokens under the mask, the n-th of them counting n times (Muennighoff 2022, SGPT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        weights = (mask.cumsum(dim=1) * mask)[:, :, None].to(hidden.dtype)  # (B, T, 1)
        total = (torch.where(mask[:, :, None], hidden, 0.0) * weights).sum(dim=1)  # (B, D)
        return total / weights.sum(dim=1)


class WeightedMeanConfig(topwork.PoolingConfig):
    """Settings of the pooling ``weighted_mean``."""

    kind: Literal["weighted_mean"] = "weighted_mean"

    def build(self, width: int) -> topwork.Pooling:
        return WeightedMeanPooling(width)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(WeightedMeanConfig)
