"""A freeze strategy: which parameters train."""

from abc import ABC, abstractmethod
from collections.abc import Collection

from topwork.interfaces.model import Model
from topwork.interfaces.plugin import PluginConfig


class FreezeStrategyConfig(PluginConfig, ABC):
    """The settings of a freeze strategy; ``freeze:`` in an experiment file."""

    @abstractmethod
    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        """Return the names of the backbone parameters that train in ``epoch`` (counted from 1).

        Pure: the core sets ``requires_grad``. Heads and pooling always train and need not be named.

        Raises:
            ValueError: a setting does not fit the model, such as a pattern that matches nothing.
        """
