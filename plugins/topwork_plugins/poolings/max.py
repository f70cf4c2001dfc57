"""The largest number of each column, over all real tokens, special tokens included."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

import topwork


class MaxPooling(topwork.Pooling):
    """Takes the maximum over the tokens under the mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        return hidden.masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)


class MaxConfig(topwork.PoolingConfig):
    """Settings of the pooling ``max``."""

    kind: Literal["max"] = "max"

    def build(self, width: int) -> topwork.Pooling:
        return MaxPooling(width)


@topwork.hookimpl
def register_poolings(register: topwork.Register[topwork.PoolingConfig]) -> None:
    register(MaxConfig)
