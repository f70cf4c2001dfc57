"""A sampler: how many of an epoch's rows each source gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from topwork.interfaces.plugin import PluginConfig

#: How the rows of several sources come together in batches.
Batches = Literal["mixed", "single", "in_turn"]


class SamplerConfig(PluginConfig, ABC):
    """The settings of a sampler; ``sampling:`` in an experiment file.

    An epoch has as many rows as all sources have together. A sampler says how they are divided among the sources; the
    core takes the rows. Those of a source come pass by pass, in an order of each pass's own where ``training.shuffle``
    is set, and an epoch goes on where the one before ended: no row comes again before all others of its source did.

    Attributes:
        batches: ``mixed`` ones have rows of all sources; ``single`` ones are of one source each, in random order where
            ``training.shuffle`` is set. Those of ``in_turn`` are of one source each too, and each source's are spread
            evenly over the epoch, so that sources of equal shares take turns.
    """

    batches: Batches = "mixed"

    @abstractmethod
    def shares(self, sizes: Mapping[str, int], epoch: int) -> Mapping[str, float]:
        """Return the share of each source in the rows of ``epoch`` (counted from 1): numbers from 0, in any unit.

        Pure: the same question has the same answer.

        Args:
            sizes: how many training rows with a label each source has.

        Raises:
            ValueError: a setting does not fit the sources.
        """
