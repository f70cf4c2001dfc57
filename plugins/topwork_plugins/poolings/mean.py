"""The mean of the hidden states of all real tokens, special tokens included."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

import topwork
from topwork_plugins.layers import OneLayerConfig


class MeanPooling(topwork.Pooling):
    """Averages over the tokens under the mask."""

    def __init__(self, width: int, layers: tuple[topwork.Layer, ...] = ()) -> None:
        super().__init__()
        self.width = width
        self.layers = layers

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        total = hidden.masked_fill(~mask[:, :, None], 0.0).sum(dim=1)  # (B, D)
        return total / mask.sum(dim=1, keepdim=True)


class MeanConfig(OneLayerConfig):
    """Settings of the pooling ``mean``."""

    kind: Literal["mean"] = "mean"

    def build(self, width: int) -> topwork.Pooling:
        return MeanPooling(width, self.layers)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(MeanConfig)
