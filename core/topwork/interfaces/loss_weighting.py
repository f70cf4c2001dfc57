"""A loss weighting: how the losses of several tasks, or their gradients, make one step."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig

#: What the factors of losses depend on: settings alone, so that they never change; what was before the step, such as
#: parameters and earlier epochs; or the losses of the step.
FactorsFrom = Literal["settings", "history", "losses"]


class LossWeighting(nn.Module, ABC):
    """Makes one total of the losses of several tasks. A task's factor is the derivative of the total by its loss.

    All that changes while it is used is in its ``state_dict``, from which a run that was killed goes on: in parameters,
    in buffers, or in what ``get_extra_state`` gives: numbers, texts and tensors, in dicts and lists. Its parameters
    train in a group of their own, named ``weighting``, without weight decay.

    Attributes:
        factors_from: what the factors depend on. The core computes a batch in pieces only once where that is not
            ``losses``; and where it is ``settings``, the total of validation losses is weighted too.
        reads_losses_after_step: whether ``after_step`` is to be called, which costs a second pass over each batch.
        learning_rate: of the parameters, at least 0.
    """

    factors_from: ClassVar[FactorsFrom] = "losses"
    reads_losses_after_step: ClassVar[bool] = False
    learning_rate: float = 1e-3

    @abstractmethod
    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Return the total of a step's losses, differentiable by each of them and by the parameters.

        Args:
            losses: of the tasks that have rows in the step, one at least, each multiplied by its ``loss_weight``.
        """

    def after_step(self, losses: Mapping[str, Float[Tensor, ""]]) -> None:
        """Take the same batch's losses after the step; called where ``reads_losses_after_step`` is set."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take the mean training loss of each task that had rows in an epoch, when that is over."""


class GradientWeighting(nn.Module, ABC):
    """Makes one gradient of the gradients of several tasks by the parameters that they share.

    Heads are trained on the gradient of their own loss. It costs a pass backward for each task. All that changes while
    it is used is in its ``state_dict``, as in that of a ``LossWeighting``.
    """

    @abstractmethod
    def forward(self, gradients: Float[Tensor, "K P"], tasks: Sequence[str]) -> Float[Tensor, " P"]:
        """Return the gradient of the P shared numbers for a step.

        Args:
            gradients: of the K tasks' losses, each multiplied by its ``loss_weight``.
            tasks: the K tasks that have rows in the step, one at least.
        """


class LossWeightingConfig(PluginConfig, ABC):
    """The settings of a loss weighting; ``weighting:`` in an experiment file."""

    def named_tasks(self) -> Collection[str]:
        """Return the tasks that the settings name; the core checks that they exist."""
        return ()

    @abstractmethod
    def build(self, tasks: Sequence[str]) -> LossWeighting | GradientWeighting:
        """Build the weighting for the tasks that are trained, in their order; the settings may name others too.

        Raises:
            ValueError: a setting does not fit the tasks.
        """
