"""A head: one task's output layer, with its loss, its decoding, and its metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from topwork.interfaces.labels import Classes, LabelSpace
from topwork.interfaces.plugin import PluginConfig

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure


#: What a head reads of a row: the pooled vector of its text, the two of a pair that are encoded apart, or the hidden
#: states of its words.
Reading = Literal["pooled", "two pooled", "words"]

#: Seconds that a metric's interval may take: after these, no further resample is measured.
MAX_INTERVAL_SECONDS = 10.0


#: Maps how often each of N texts counts, (N,), to a metric, shape ().
WeightedMetric = Callable[[Float[Tensor, " N"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Metric:
    """A figure of merit over N texts. The targets of each label space are described there; outputs of words are
    (N, S, C), and whatever stands behind a text's last word, where targets are ``NO_LABEL``, must not change it.

    It is computed once an epoch on the validation rows, and for the final interval on up to 1,000 resamples of the
    rows: N rows, of which some are missing and others there several times. One that takes long gets fewer: after
    ``MAX_INTERVAL_SECONDS`` no other is begun, and on under 200 no interval is given. Where ``compute`` raises or gives
    NaN, as an area under the curve may on rows of one class, that costs the value or the interval, and is said.

    Attributes:
        name: how it is logged: ``accuracy`` becomes ``validation/<task>/accuracy``.
        compute: maps outputs (N, C) and targets (N, ...) either to one number, shape (), or to a score per text,
            shape (N,), whose mean is the metric; a tensor of floating-point numbers. Scores per text allow sharper
            intervals. With ``combine`` it gives K counts per text, (N, K).
        greater_is_better: the direction in which early stopping and studies look.
        combine: maps the counts of all texts, summed up, (K,), to the metric, shape (). What is a ratio of sums, such
            as the F1 of spans, is then counted once, and each of the resamples costs next to nothing.
        weighted: maps outputs and targets to what gives the metric, shape (), where each text counts so many times,
            (N,) of numbers from 0. What must sort the texts, such as an area under a curve, then sorts them once for
            all resamples. For a ``compute`` that gives one number.
        bounds: the least and the greatest that it can be, which the ends of intervals stay within.
    """

    name: str
    compute: Callable[[Float[Tensor, "N ..."], Shaped[Tensor, "N ..."]], Float[Tensor, "..."]]
    greater_is_better: bool = True
    combine: Callable[[Float[Tensor, " K"]], Float[Tensor, ""]] | None = None
    weighted: Callable[[Float[Tensor, "N ..."], Shaped[Tensor, "N ..."]], WeightedMetric] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def total(self, scores: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the metric of texts of which ``compute`` gave these scores."""
        return scores.mean() if self.combine is None else self.combine(scores.sum(dim=0))


#: What a head says of a text: the name of a class; the names of some labels, or of the class of each word; or a number,
#: or several by their names.
Label = str | tuple[str, ...] | float | dict[str, float]


@dataclass(frozen=True)
class Decoded:
    """What a head says of N texts.

    Attributes:
        labels: the label of each text: for classes and shares of classes the name of a class, for sets of labels the
            names of some, for words the name of a class for each, for numbers a number, or, where there are several,
            numbers by name.
        probabilities: (N, C), from 0 to 1, columns in the order of the label space's names; the rows of classes and of
            shares of classes sum to 1. Of words (N, S, C), each word's sum to 1. None for numbers.
    """

    labels: Sequence[Label]
    probabilities: Float[Tensor, "N ..."] | None = None


@dataclass(frozen=True)
class HeadFigure:
    """A figure of a head's outputs for N texts.

    Attributes:
        name: letters, digits, ``_`` and ``-``; ``confusion`` is logged as ``figures/confusion_<task>.png``.
        draw: maps outputs (N, C), targets (N, ...) and the label space to a matplotlib figure.
        table: maps the same to what the figure has no room for, as CSV, which is logged beside it.
    """

    name: str
    draw: Callable[[Float[Tensor, "N ..."], Shaped[Tensor, "N ..."], Any], "Figure"]
    table: Callable[[Float[Tensor, "N ..."], Shaped[Tensor, "N ..."], Any], str] | None = None


@dataclass(frozen=True)
class Head:
    """The parts of a head.

    The loss always gets its tensors on the device of ``module``, in training and in evaluation; a loss that is a module
    is moved there, and other tensors that it uses, such as class weights, it moves itself: ``weights.to(outputs)``.
    Decoding, metrics and figures always get theirs on the CPU, outputs as float32. What a part writes into its inputs
    no other part sees.

    Attributes:
        module: pooled vectors, (B, W) or (B, 2, W), to outputs (B, C). For a head that reads words: their hidden states
            (B, S, D) and a mask (B, S), True at words, to outputs (B, S, C); what stands at masked positions must not
            change the outputs of words. All of its parameters train; they and its buffers are all that is saved.
        loss: outputs (B, C) and targets (B, ...) to the mean loss over the batch, shape (). It has no parameters that
            are not the module's. In evaluation the batch is all rows of a split that have a label.
        decode: outputs (N, C) to labels and probabilities. Outputs of words, (N, S, C), are of texts of S words each:
            it is called for texts of one length at a time, so that there is no padding.
        metrics: what is measured after each epoch and at the end; the loss always is.
        figures: what is drawn of a run's final outputs; may be empty.
        denominator: what the loss divides by: targets (B, ...) to one number from 0, shape (), such as the sum of the
            class weights of a weighted cross-entropy; None where that is B or, of words, the number of words with a
            label. The loss of a batch is the mean of its pieces' losses, weighted by their denominators; so a batch
            that is computed in pieces gives the same step.
        tune: sets buffers of the module, such as thresholds, from outputs (N, C) and targets (N, ...) of the validation
            rows, on the CPU; called once, after training, with the weights of the best epoch, and only where validation
            rows have labels.
    """

    module: nn.Module
    loss: Callable[[Float[Tensor, "B ..."], Shaped[Tensor, "B ..."]], Float[Tensor, ""]]
    decode: Callable[[Float[Tensor, "N ..."]], Decoded]
    metrics: Sequence[Metric]
    figures: Sequence[HeadFigure] = ()
    denominator: Callable[[Shaped[Tensor, "B ..."]], Float[Tensor, ""]] | None = None
    tune: Callable[[Float[Tensor, "N ..."], Shaped[Tensor, "N ..."]], None] | None = None


class HeadConfig(PluginConfig, ABC):
    """The settings of a head; ``tasks.<task>.head:`` in an experiment file.

    Attributes:
        label_spaces: those that the head takes. The first is how a single column is read, unless its values are objects
            of JSON, which are shares of classes.
        reads: ``pooled`` vectors (B, W), of pairs too, which are one sequence; ``two pooled`` vectors (B, 2, W), of
            the two texts of a pair that are encoded apart; or ``words``, the hidden states (B, S, D) of each word's
            first token.
    """

    label_spaces: ClassVar[tuple[type[LabelSpace], ...]] = (Classes,)
    reads: ClassVar[Reading] = "pooled"

    @abstractmethod
    def build(self, width: int, labels: Any) -> Head:
        """Build the head for vectors of ``width`` columns (W, or D of words) and the labels of the training rows.

        Args:
            labels: one of ``label_spaces``.

        Draw initial weights from torch's global generator only: the core seeds it for each task by name.

        Raises:
            ValueError: the labels do not fit this head; the core adds the task.
        """
