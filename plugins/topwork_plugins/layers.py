"""Settings and modules that poolings of chosen layers share."""

from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field
from torch import Tensor

import topwork


def _check_layer(layer: object) -> object:
    if layer != "embeddings" and (not isinstance(layer, int) or isinstance(layer, bool)):
        raise ValueError("a layer is its number from 0, or from -1 backwards, or embeddings")
    return layer


#: A layer by its number, or what the embeddings give.
LayerSetting = Annotated[int | Literal["embeddings"], BeforeValidator(_check_layer)]


class OneLayerConfig(topwork.PoolingConfig):
    """Settings of a pooling that reads one layer.

    Attributes:
        layer: whose hidden states it reads; null means what the backbone gives. The layers behind it do not run.
    """

    # left out where it is null, as in what was written before there was such a setting
    layer: LayerSetting | None = Field(default=None, exclude_if=lambda layer: layer is None)

    @property
    def layers(self) -> tuple[topwork.Layer, ...]:
        """The layer, as ``Pooling.layers`` has it."""
        return () if self.layer is None else (self.layer,)


class SeveralLayersConfig(topwork.PoolingConfig):
    """Settings of a pooling that reads several layers.

    Attributes:
        layers: whose hidden states it reads, in rising order; the last four by default, the best features of BERT
            (Devlin et al. 2019, table 7).
        each: how each of them is pooled, by its first token or the mean of all.
    """

    layers: Annotated[tuple[LayerSetting, ...], Field(min_length=1)] = (-4, -3, -2, -1)
    each: Literal["cls", "mean"] = "cls"


class EachLayer(topwork.Pooling):
    """Pools each of several layers by itself."""

    def __init__(self, each: topwork.Pooling, layers: tuple[topwork.Layer, ...]) -> None:
        super().__init__()
        self.each = each
        self.layers = layers
        self.reads_first_token_only = each.reads_first_token_only

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        pooled: Tensor = self.each(hidden, mask)
        return pooled
