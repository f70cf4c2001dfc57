"""A pooling: hidden states to one vector per text."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig


class Pooling(nn.Module, ABC):
    """Turns the hidden states of a text into one vector.

    Attributes:
        width: W, the columns of a pooled vector.
        reads_first_token_only: whether all tokens but the first are ignored. Where this holds and nothing
            that trains mixes tokens, one vector per text is all that training needs.
    """

    width: int
    reads_first_token_only: bool = False

    @abstractmethod
    def forward(self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B W"]:
        """Pool ``hidden`` (B, T, D) with ``mask`` (B, T), True at real tokens, into (B, W).

        What stands at masked positions, some finite numbers, must not change the result.
        """


class PoolingConfig(PluginConfig, ABC):
    """The settings of a pooling; ``pooling:`` in an experiment file."""

    @abstractmethod
    def build(self, width: int) -> Pooling:
        """Build the pooling for hidden states of ``width`` columns (D)."""
