"""The pooled vectors of several layers, one behind the other."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

import topwork
from topwork_plugins.layers import EachLayer, SeveralLayersConfig
from topwork_plugins.poolings.cls import ClsPooling
from topwork_plugins.poolings.mean import MeanPooling


class ConcatLayersPooling(EachLayer):
    """Joins what each layer says of the text (Devlin et al. 2019)."""

    def __init__(self, each: topwork.Pooling, layers: tuple[topwork.Layer, ...]) -> None:
        super().__init__(each, layers)
        self.width = len(layers) * each.width

    def combine(self, vectors: Float[Tensor, "B L D"]) -> Float[Tensor, "B W"]:
        return vectors.flatten(start_dim=1)


class ConcatLayersConfig(SeveralLayersConfig):
    """Settings of the pooling ``concat_layers``."""

    kind: Literal["concat_layers"] = "concat_layers"

    def build(self, width: int) -> topwork.Pooling:
        each = ClsPooling(width) if self.each == "cls" else MeanPooling(width)
        return ConcatLayersPooling(each, self.layers)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(ConcatLayersConfig)
