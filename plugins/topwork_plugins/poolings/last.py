"""The hidden state of the last real token stands for the text, as encoders that read from left to right want it."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import topwork


class LastPooling(topwork.Pooling):
    """Takes the last token under the mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        places = torch.arange(mask.shape[1], device=mask.device)
        last = places.masked_fill(~mask, -1).amax(dim=1)  # (B,)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


class LastConfig(topwork.PoolingConfig):
    """Settings of the pooling ``last``."""

    kind: Literal["last"] = "last"

    def build(self, width: int) -> topwork.Pooling:
        return LastPooling(width)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(LastConfig)
