"""A head: one task's output layer, with its loss, its reading of the outputs, and its metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig


@dataclass(frozen=True)
class Classes:
    """The label space of a task: the class names met in the training rows, sorted.

    A target is the index of a class name, so targets are (B,) int64.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """A figure of merit over N texts.

    Attributes:
        name: how it is logged: ``accuracy`` becomes ``validation/<task>/accuracy``.
        of: maps outputs (N, C) and targets (N,) either to one number, shape (), or to a score per text,
            shape (N,), whose mean is the metric. Scores per text allow sharper intervals.
        greater_is_better: the direction in which early stopping and studies look.
    """

    name: str
    of: Callable[[Tensor, Tensor], Tensor]
    greater_is_better: bool = True


@dataclass(frozen=True)
class Decoded:
    """What a head says of N texts.

    Attributes:
        labels: the label of each text.
        probabilities: (N, number of classes), rows sum to 1, columns in the order of ``Classes.names``.
    """

    labels: list[str]
    probabilities: Tensor


@dataclass(frozen=True)
class Head:
    """The parts of a head.

    Attributes:
        module: pooled vectors (B, W) to outputs (B, C). All of its parameters train.
        loss: outputs (B, C) and targets (B,) to the mean loss over the batch, shape ().
        decode: outputs (N, C) to labels and probabilities.
        metrics: what is measured after each epoch and at the end; the loss always is.
    """

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor], Decoded]
    metrics: Sequence[Metric]


class HeadConfig(PluginConfig, ABC):
    """The settings of a head; ``tasks.<task>.head:`` in an experiment file."""

    @abstractmethod
    def build(self, width: int, labels: Classes) -> Head:
        """Build the head for pooled vectors of ``width`` columns (W) and the classes of the training rows.

        Draw initial weights from torch's global generator only: the core seeds it for each task by name.

        Raises:
            ValueError: the labels do not fit this head; the core adds the task.
        """
