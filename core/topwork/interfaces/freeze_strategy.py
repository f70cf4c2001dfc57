"""A freeze strategy: which parameters train."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from topwork.interfaces.backbone import Backbone
from topwork.interfaces.model import Model
from topwork.interfaces.plugin import PluginConfig


class FreezeStrategyConfig(PluginConfig, ABC):
    """The settings of a freeze strategy; ``freeze:`` in an experiment file.

    Attributes:
        adapts_backbone: whether ``adapt`` changes the backbone, so that it has to be loaded anew for each training.
    """

    adapts_backbone: ClassVar[bool] = False

    @abstractmethod
    def trainable(self, model: Model, epoch: int) -> Collection[str]:
        """Return the names of the backbone parameters that train in ``epoch`` (counted from 1).

        Pure: the same question has the same answer, and nothing is changed; the core sets ``requires_grad``.
        Heads and pooling always train and need not be named.

        Raises:
            ValueError: a setting does not fit the model, such as a pattern that matches nothing.
        """

    def phase_starts(self, model: Model, epochs: int) -> Collection[int]:
        """Return the epochs, from 2 to ``epochs``, in which other parameters may train than in the epoch before.

        The core asks ``trainable`` for epoch 1 and these, before anything is computed. A strategy that never changes
        returns ``()``; one that does not implement this is asked for every epoch, which takes long where they are many.
        """
        return range(2, epochs + 1)

    def adapt(self, backbone: Backbone) -> None:
        """Add parameters to a backbone that was just loaded, such as those of adapters; optional.

        It gives what it gave before, and each parameter belongs to one stage, as ever. Draws from torch's generator,
        which the core seeds.

        Raises:
            ValueError: a setting does not fit the backbone.
        """

    def finish(self, backbone: Backbone) -> None:
        """Leave a backbone after training with the parameters that it has when it is loaded; optional.

        It gives what the trained one gives but for rounding.
        """
