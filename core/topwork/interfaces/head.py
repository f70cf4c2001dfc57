"""A head: one task's output layer, with its loss, its decoding, and its metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure


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
        compute: maps outputs (N, C) and targets (N,) either to one number, shape (), or to a score per text,
            shape (N,), whose mean is the metric. Scores per text allow sharper intervals.
        greater_is_better: the direction in which early stopping and studies look.
    """

    name: str
    compute: Callable[[Float[Tensor, "N C"], Shaped[Tensor, " N"]], Float[Tensor, "..."]]
    greater_is_better: bool = True


@dataclass(frozen=True)
class Decoded:
    """What a head says of N texts.

    Attributes:
        labels: the label of each text.
        probabilities: (N, number of classes), rows sum to 1, columns in the order of ``Classes.names``.
    """

    labels: list[str]
    probabilities: Float[Tensor, "N classes"]


@dataclass(frozen=True)
class HeadFigure:
    """A figure of a head's outputs for N texts.

    Attributes:
        name: letters, digits, ``_`` and ``-``; ``confusion`` is logged as ``figures/confusion_<task>.png``.
        draw: maps outputs (N, C), targets (N,) and the label space to a matplotlib figure.
        table: maps the same to what the figure has no room for, as CSV, which is logged beside it.
    """

    name: str
    draw: Callable[[Float[Tensor, "N C"], Shaped[Tensor, " N"], Classes], "Figure"]
    table: Callable[[Float[Tensor, "N C"], Shaped[Tensor, " N"], Classes], str] | None = None


@dataclass(frozen=True)
class Head:
    """The parts of a head.

    Attributes:
        module: pooled vectors (B, W) to outputs (B, C). All of its parameters train.
        loss: outputs (B, C) and targets (B,) to the mean loss over the batch, shape ().
        decode: outputs (N, C) to labels and probabilities.
        metrics: what is measured after each epoch and at the end; the loss always is.
        figures: what is drawn of a run's final outputs; may be empty.
    """

    module: nn.Module
    loss: Callable[[Float[Tensor, "B C"], Shaped[Tensor, " B"]], Float[Tensor, ""]]
    decode: Callable[[Float[Tensor, "N C"]], Decoded]
    metrics: Sequence[Metric]
    figures: Sequence[HeadFigure] = ()


class HeadConfig(PluginConfig, ABC):
    """The settings of a head; ``tasks.<task>.head:`` in an experiment file."""

    @abstractmethod
    def build(self, width: int, labels: Classes) -> Head:
        """Build the head for pooled vectors of ``width`` columns (W) and the classes of the training rows.

        Draw initial weights from torch's global generator only: the core seeds it for each task by name.

        Raises:
            ValueError: the labels do not fit this head; the core adds the task.
        """
