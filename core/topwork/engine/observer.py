"""Callbacks of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

#: Where activations are: on disk, in memory, computed for each batch, or, with an empty prefix, nothing to compute.
Location = Literal["store", "memory", "recomputed", "token ids"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: from 1.
        metrics: by full name, such as ``training/loss`` or ``validation/sentiment/accuracy``.
        learning_rates: of each group, in the last step.
        texts_per_second: in training, evaluation left out.
    """

    number: int
    metrics: dict[str, float]
    learning_rates: dict[str, float]
    texts_per_second: float


@dataclass(frozen=True)
class TrainingStep:
    """What one step gave.

    Attributes:
        epoch, number: of the epoch, and in it, from 1.
        losses: the mean loss of each task that had labelled rows.
        learning_rates: of each group.
    """

    epoch: int
    number: int
    losses: Mapping[str, float]
    learning_rates: Mapping[str, float]


@dataclass(frozen=True)
class EncodingReport:
    """Where the activations of all texts came from.

    Attributes:
        texts: how many distinct texts there are.
        encoded: how many of them were encoded ahead of training; the store had the others.
        seconds: what encoding them took, writing included.
        where: where activations are now.
        note: the key of the store, or why it is not used.
    """

    texts: int
    encoded: int
    seconds: float
    where: Location
    note: str

    @property
    def found(self) -> int:
        """How many texts the store had."""
        return self.texts - self.encoded if self.where in ("store", "memory") else 0

    @property
    def texts_per_second(self) -> float | None:
        """How fast the prefix was; None where it encoded nothing ahead of training."""
        return self.encoded / self.seconds if self.encoded else None


class Observer:
    """Watches a run; what it does not override is ignored.

    It may read everything and must change nothing; what it draws from torch's random numbers on the CPU is put back.
    Where it raises, that is logged, the run goes on, and it is not called again; only a TopworkError that it raises
    ends the run. A run that goes on after an interruption calls it from there on, and first ``resumed``.

    Attributes:
        every_step: whether ``step`` is called.
        stop_reason: why training should end after this epoch, as it would where patience runs out; empty to go on.
            Before each of several trainings it is emptied.
    """

    every_step: bool = False
    stop_reason: str = ""

    def run(self, name: str) -> None:
        """One of several runs begins: of a seed, or of a task alone."""

    def begin(self, phase: str, total: int) -> None:
        """A phase of ``total`` tokens or steps begins; phases do not overlap."""

    def advance(self, done: int) -> None:
        """``done`` more tokens or steps of the phase are finished."""

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        """Training goes on where it was interrupted: after these epochs, and so many steps of the next."""

    def encoded(self, report: EncodingReport) -> None:
        """The activations are there."""

    def start(self, model: nn.Module) -> None:
        """Training begins, or goes on, with this model, whose parameters and modules may be read from now on.

        Its parts are called ``backbone``, ``pooling`` and ``heads.<task>``.
        """

    def step(self, step: TrainingStep) -> None:
        """A step is taken; parameters that train still have the gradients of it."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is finished and measured."""

    def end(self, best_epoch: int, metrics: Mapping[str, float]) -> None:
        """Training has come to its end; the model has the weights that are kept, and these are their metrics."""
