"""The hidden state of the first token, [CLS], stands for the text."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

import topwork
from topwork_plugins.layers import OneLayerConfig


class ClsPooling(topwork.Pooling):
    """Takes the first token."""

    reads_first_token_only = True

    def __init__(self, width: int, layers: tuple[topwork.Layer, ...] = ()) -> None:
        super().__init__()
        self.width = width
        self.layers = layers

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        return hidden[:, 0]  # (B, D)


class ClsConfig(OneLayerConfig):
    """Settings of the pooling ``cls``."""

    kind: Literal["cls"] = "cls"

    def build(self, width: int) -> topwork.Pooling:
        return ClsPooling(width, self.layers)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(ClsConfig)
