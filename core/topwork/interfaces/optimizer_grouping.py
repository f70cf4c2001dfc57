"""An optimizer grouping: which trainable parameter gets which learning rate."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from topwork.interfaces.model import Model
from topwork.interfaces.plugin import PluginConfig


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: how plans and metrics call the group: ``learning_rate/<name>``.
        parameters: full parameter names.
        learning_rate: the optimizer's, before any schedule; at least 0.
        weight_decay: the optimizer's, decoupled for AdamW; at least 0.
    """

    name: str
    parameters: tuple[str, ...]
    learning_rate: float
    weight_decay: float


class OptimizerGroupingConfig(PluginConfig, ABC):
    """The settings of an optimizer grouping; ``optimizer:`` in an experiment file."""

    @abstractmethod
    def groups(self, model: Model) -> Sequence[ParameterGroup]:
        """Sort the parameters with ``requires_grad`` into groups.

        Pure. The core checks that every trainable parameter is in exactly one group and no frozen one is
        in any; a group without parameters is left out.
        """
