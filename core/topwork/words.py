"""What heads that name the class of each word measure and draw: words, and the spans that their classes mark.

N texts, S words of the longest, C classes. Words without a label, and what is behind a text's last word, count nowhere.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topwork.confusion import confusion_figure
from topwork.interfaces.head import Decoded, HeadFigure, Metric
from topwork.interfaces.labels import NO_LABEL, Classes, WordLabels
from topwork.per_class import ClassCounts, draw_per_class, per_class_figure, per_class_table

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: Maps outputs (N, S, C) to the number of the class of each word, (N, S).
PredictWords = Callable[[Float[Tensor, "N S C"]], Int[Tensor, "N S"]]

#: A span of a text: its type, and the numbers of its first and last word.
Span = tuple[str, int, int]

#: The class of a word in a span: its place there, and the span's type.
_IN_SPAN = re.compile(r"([BIESLU])-(.+)", re.DOTALL)

#: The class of a word in no span.
_OUTSIDE = "O"


def argmax_words(outputs: Float[Tensor, "N S C"]) -> Int[Tensor, "N S"]:
    """Return the number of the class with the largest output of each word, int64."""
    return outputs.argmax(dim=2)


def decode_words(labels: WordLabels) -> Callable[[Tensor], Decoded]:
    """Return a ``Head.decode`` for outputs (N, S, C) that are the logits of the classes of each word."""

    def decode(outputs: Tensor) -> Decoded:
        classes = [tuple(labels.names[number] for number in text) for text in argmax_words(outputs).tolist()]
        return Decoded(classes, outputs.softmax(dim=2))

    return decode


def word_metrics(labels: WordLabels, predict: PredictWords = argmax_words) -> list[Metric]:
    """Return accuracy and macro-averaged F1 over words and, where classes mark spans, the F1 of these.

    Args:
        predict: maps outputs (N, S, C) to the number of the class of each word, (N, S) int64.
    """

    def count_hits(outputs: Tensor, targets: Tensor) -> Tensor:
        known = targets != NO_LABEL
        return torch.stack([((predict(outputs) == targets) & known).sum(dim=1), known.sum(dim=1)], dim=1).float()

    def count_classes(outputs: Tensor, targets: Tensor) -> Tensor:
        predicted, known = predict(outputs), targets != NO_LABEL
        kinds = [(predicted, known), (targets, known), (targets, known & (predicted == targets))]
        return torch.cat([_histograms(numbers, wanted, len(labels.names)) for numbers, wanted in kinds], dim=1)

    metrics = [
        Metric("accuracy", count_hits, combine=lambda counts: counts[0] / counts[1], bounds=(0, 1)),
        Metric("macro_f1", count_classes, combine=lambda counts: _mean_f1(*counts.chunk(3)), bounds=(0, 1)),
    ]
    return [*metrics, *(span_metrics(labels, predict) if mark_spans(labels.names) else ())]


def span_metrics(labels: WordLabels, predict: PredictWords = argmax_words) -> list[Metric]:
    """Return F1, precision and recall of spans, which are right where both ends and the type are.

    Where there are true spans but none is predicted, precision is 0, and the other way round recall; where there are
    neither, all three are NaN. Words without a label are left out of the text before its spans are found.

    Args:
        predict: maps outputs (N, S, C) to the number of the class of each word, (N, S) int64.
    """

    def count(outputs: Tensor, targets: Tensor) -> Tensor:
        rows = []
        for predicted, true in _spans(predict(outputs), targets, labels.names):
            rows.append([len(predicted), len(true), len(predicted & true)])
        return torch.tensor(rows, dtype=torch.float32)

    return [
        Metric("span_f1", count, combine=lambda counts: 2 * counts[2] / (counts[0] + counts[1]), bounds=(0, 1)),
        Metric(
            "span_precision",
            count,
            combine=lambda counts: _share(counts[2], of=counts[0], where=counts[1]),
            bounds=(0, 1),
        ),
        Metric(
            "span_recall", count, combine=lambda counts: _share(counts[2], of=counts[1], where=counts[0]), bounds=(0, 1)
        ),
    ]


def _share(hits: Float[Tensor, ""], *, of: Float[Tensor, ""], where: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return a share of spans, 0 of none where there are others, NaN where there are none at all."""
    return hits if of == 0 and where > 0 else hits / of


def word_figures(labels: WordLabels, predict: PredictWords = argmax_words) -> list[HeadFigure]:
    """Return confusion matrix and F1 of the classes of words and, where these mark spans, F1 of the types of spans.

    Args:
        predict: maps outputs (N, S, C) to the number of the class of each word, (N, S) int64.
    """

    def of_words(outputs: Tensor) -> Tensor:
        return predict(outputs[None])[0]

    figures = [_of_known_words(confusion_figure(of_words)), _of_known_words(per_class_figure(of_words))]
    return [*figures, *([_span_figure(predict)] if mark_spans(labels.names) else ())]


def mark_spans(names: Sequence[str]) -> bool:
    """Whether classes of words mark spans, as in BIO or BIOES: all are ``O`` or like ``B-city``."""
    return _OUTSIDE in names and all(name == _OUTSIDE or _IN_SPAN.fullmatch(name) for name in names)


@lru_cache(maxsize=2**15)  # three metrics ask for the same texts, and each epoch for the same targets
def find_spans(classes: tuple[str, ...]) -> frozenset[Span]:
    """Return the spans that the classes of a text's words mark: IOB1, BIO, BIOES or BILOU.

    Where they contradict themselves, a span ends with an ``E``, ``L``, ``S`` or ``U``, with an ``O``, and before a
    ``B``, an ``S``, a ``U``, or another type, as the evaluation of CoNLL-2000 has it.
    """
    from nervaluate.utils import collect_named_entities

    return frozenset((one["label"], one["start"], one["end"]) for one in collect_named_entities(_in_bio(classes)))


def _in_bio(classes: Sequence[str]) -> list[str]:
    """Write the classes of words in BIO."""
    written: list[str] = []
    ended = False
    for name in classes:
        found = _IN_SPAN.fullmatch(name)
        if found is None:
            written.append(_OUTSIDE)
            ended = False
            continue
        place, kind = found.groups()
        written.append(f"{'B' if ended or place in 'BSU' else 'I'}-{kind}")
        ended = place in "ELSU"
    return written


def _spans(
    predicted: Int[Tensor, "N S"], targets: Int[Tensor, "N S"], names: Sequence[str]
) -> Iterator[tuple[frozenset[Span], frozenset[Span]]]:
    """Yield the predicted and the true spans of each text, among its words that have a label."""
    for of_text, true, known in zip(predicted, targets, targets != NO_LABEL, strict=True):
        found, wanted = (tuple(names[number] for number in numbers[known].tolist()) for numbers in (of_text, true))
        yield find_spans(found), find_spans(wanted)


def _span_figure(predict: PredictWords) -> HeadFigure:
    """Return precision, recall and F1 of each type of span, as a figure and a table named ``per_span``."""

    def draw(outputs: Tensor, targets: Tensor, labels: WordLabels) -> "Figure":
        return draw_per_class(*_count_types(predict(outputs), targets, labels.names))

    def table(outputs: Tensor, targets: Tensor, labels: WordLabels) -> str:
        return per_class_table(*_count_types(predict(outputs), targets, labels.names))

    return HeadFigure("per_span", draw, table)


def _count_types(
    predicted: Int[Tensor, "N S"], targets: Int[Tensor, "N S"], names: Sequence[str]
) -> tuple[ClassCounts, list[str]]:
    """Count the spans of each type, and return the types."""
    types = sorted({match[2] for name in names if (match := _IN_SPAN.fullmatch(name))})
    number_of = {kind: number for number, kind in enumerate(types)}
    counts = torch.zeros(3, len(types), dtype=torch.int64)
    for found, true in _spans(predicted, targets, names):
        for row, spans in zip(counts, (found, true, found & true), strict=True):
            for kind, _, _ in spans:
                row[number_of[kind]] += 1
    return ClassCounts(*counts), types


def _of_known_words(figure: HeadFigure) -> HeadFigure:
    """Return a figure of classes as one of words, of those that have a label."""
    table = figure.table
    assert table is not None

    def draw(outputs: Tensor, targets: Tensor, labels: WordLabels) -> "Figure":
        known = targets != NO_LABEL
        return figure.draw(outputs[known], targets[known], Classes(labels.names))

    def write(outputs: Tensor, targets: Tensor, labels: WordLabels) -> str:
        known = targets != NO_LABEL
        return table(outputs[known], targets[known], Classes(labels.names))

    return HeadFigure(figure.name, draw, write)


def _histograms(numbers: Int[Tensor, "N S"], wanted: Bool[Tensor, "N S"], classes: int) -> Float[Tensor, "N C"]:
    """Count how often each class occurs among the wanted words of each text."""
    counts = torch.zeros(len(numbers), classes)
    return counts.scatter_add(1, numbers.masked_fill(~wanted, 0), wanted.float())


def _mean_f1(predicted: Float[Tensor, " C"], true: Float[Tensor, " C"], hits: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """Return the mean F1 of the classes that are predicted or true somewhere, shape ()."""
    seen = predicted + true > 0
    return (2 * hits[seen] / (predicted + true)[seen]).mean()
