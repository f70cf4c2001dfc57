"""A pooling: hidden states to one vector per text."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig

#: The number of a transformer layer, from 0, or from -1 backwards; or what the embeddings give.
Layer = int | Literal["embeddings"]


class Pooling(nn.Module, ABC):
    """Turns the hidden states of a text into one vector.

    Attributes:
        width: W, the columns of a pooled vector.
        reads_first_token_only: whether all tokens but the first are ignored. Where this holds and nothing
            that trains mixes tokens, one vector per text is all that training needs.
        layers: the layers of which it reads the hidden states, in rising order; none means what the last stage gives.
            ``forward`` then pools one layer after the other, to D columns, and has nothing that trains or is drawn at
            random: of a frozen layer one vector per text is all that training needs.
    """

    width: int
    reads_first_token_only: bool = False
    layers: tuple[Layer, ...] = ()

    @abstractmethod
    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B W"]:
        """Pool ``hidden`` (B, T, D) with ``mask`` (B, T), True at real tokens, into (B, W).

        What stands at masked positions, some finite numbers, must not change the result.
        """

    def combine(self, vectors: Float[Tensor, "B L D"]) -> Float[Tensor, "B W"]:
        """Make one vector (B, W) of those of L layers (B, L, D); optional where there is one layer."""
        return vectors[:, 0]


class PoolingConfig(PluginConfig, ABC):
    """The settings of a pooling; ``pooling:`` in an experiment file."""

    @abstractmethod
    def build(self, width: int) -> Pooling:
        """Build the pooling for hidden states of ``width`` columns (D)."""
