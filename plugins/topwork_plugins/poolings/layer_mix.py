"""A mean of the pooled vectors of several layers whose weights are learnt: which layer matters to the tasks."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

import topwork
from topwork_plugins.layers import EachLayer, SeveralLayersConfig
from topwork_plugins.poolings.cls import ClsPooling
from topwork_plugins.poolings.mean import MeanPooling


class LayerMixPooling(EachLayer):
    """Averages by a softmax of one learnt number per layer, times a learnt scale (Peters et al. 2018, ELMo)."""

    def __init__(self, each: topwork.Pooling, layers: tuple[topwork.Layer, ...]) -> None:
        super().__init__(each, layers)
        self.width = each.width
        self.weights = nn.Parameter(torch.zeros(len(layers)))  # all alike at first
        self.scale = nn.Parameter(torch.ones(()))

    def combine(self, vectors: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        return self.scale * (self.weights.softmax(dim=0)[:, None] * vectors).sum(dim=1)


class LayerMixConfig(SeveralLayersConfig):
    """Settings of the pooling ``layer_mix``. It trains with the heads: what is kept is then a vector for each layer."""

    kind: Literal["layer_mix"] = "layer_mix"

    def build(self, width: int) -> topwork.Pooling:
        each = ClsPooling(width) if self.each == "cls" else MeanPooling(width)
        return LayerMixPooling(each, self.layers)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(LayerMixConfig)
