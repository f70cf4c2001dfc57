"""A head that is held to its interface whenever one of its parts is called."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from topwork.engine.model.plugin_checks import is_out_of_memory, named, plugin_of
from topwork.errors import PluginError, TopworkError, describe, quote
from topwork.interfaces.head import Decoded, Head, HeadConfig, HeadFigure, Metric, WeightedMetric
from topwork.interfaces.labels import NO_LABEL, LabelSet, LabelSpace, Numbers, WordLabels, are_of_words

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: How far probabilities may be from [0, 1], and their sum from 1.
TOLERANCE = 1e-3


def checked_head(head: Head, config: HeadConfig, labels: LabelSpace, *, where: str) -> Head:
    """Return ``head`` with parts that check what they give, and whose errors say whose they are.

    Decoding, metrics and figures get copies, so that what one writes into no other reads; so does the loss where
    nothing is trained. A loss that is a module is moved to where its inputs are.

    Args:
        where: the place of the head's settings, with which errors begin.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        with part_errors(config, where, "the loss"):
            if isinstance(head.loss, nn.Module):
                head.loss.to(outputs.device)
            return check_loss(head.loss(outputs if outputs.requires_grad else outputs.clone(), targets.clone()))

    def decode(outputs: Tensor) -> Decoded:
        with part_errors(config, where, "decode"):
            return check_decoded(head.decode(outputs.clone()), outputs.shape, labels)

    def denominator(targets: Tensor) -> Tensor:
        assert head.denominator is not None
        with part_errors(config, where, "the denominator"):
            return check_denominator(head.denominator(targets.clone()))

    def tune(outputs: Tensor, targets: Tensor) -> None:
        assert head.tune is not None
        with part_errors(config, where, "tune"):
            head.tune(outputs.clone(), targets.clone())

    return dataclasses.replace(
        head,
        loss=loss,
        decode=decode,
        metrics=[_checked_metric(metric, config, where) for metric in head.metrics],
        figures=[_checked_figure(figure, config, where) for figure in head.figures],
        denominator=None if head.denominator is None else denominator,
        tune=None if head.tune is None else tune,
    )


@contextmanager
def part_errors(config: HeadConfig, where: str, part: str) -> Iterator[None]:
    """Say whose a part of a head is when it fails or gives what it should not.

    Raises:
        PluginError: it does. Where memory runs out that is nobody's mistake, and raised as it is.
    """
    try:
        yield
    except PluginError as error:
        error.located(named(where, plugin_of(config, error)))
        raise
    except TopworkError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        if is_out_of_memory(error):
            raise
        raise PluginError(f"{part} failed: {describe(error)}").located(
            named(where, plugin_of(config, error))
        ) from error


def check_types(head: Head) -> None:
    """Check what the parts of a head are.

    Raises:
        PluginError: names those that are something else.
    """
    module: object = head.module
    wrong = [] if isinstance(module, nn.Module) else [f"module must be a torch.nn.Module, got {quote(module)}"]
    parts: dict[str, object] = {"loss": head.loss, "decode": head.decode}
    parts |= {name: part for name, part in (("denominator", head.denominator), ("tune", head.tune)) if part is not None}
    wrong += [f"{name} must be callable, got {quote(part)}" for name, part in parts.items() if not callable(part)]
    several: dict[str, tuple[object, type]] = {"metrics": (head.metrics, Metric), "figures": (head.figures, HeadFigure)}
    for name, (found, kind) in several.items():
        if not isinstance(found, list | tuple) or not all(isinstance(one, kind) for one in found):
            wrong.append(f"{name} must be a list of {kind.__name__}, got {quote(found)}")
    if wrong:
        raise PluginError("\n".join(wrong))


def check_loss(value: object) -> Tensor:
    """Return what a loss gave.

    Raises:
        PluginError: it is not one number.
    """
    if not isinstance(value, Tensor):
        raise PluginError(f"the loss must be a tensor, got {_shown(value)}")
    if value.shape != () or not value.is_floating_point():
        raise PluginError(f"the loss must be one number, got {_described(value)}")
    return value


def check_decoded(decoded: object, shape: Sequence[int], labels: LabelSpace) -> Decoded:
    """Return what a head decoded of outputs of some shape, (N, C), or (N, S, C) of words.

    Raises:
        PluginError: there is not a label for each row, or labels or probabilities are none of the label space.
    """
    if not isinstance(decoded, Decoded):
        raise PluginError(f"decode must give a Decoded, got {_shown(decoded)}")
    rows, found = shape[0], cast("object", decoded.labels)
    if not isinstance(found, list | tuple) or len(found) != rows:
        raise PluginError(f"decode must give {rows} labels for {texts(rows)}, got {_shown(found)}")
    for label in found:
        _check_label(label, labels)
        if isinstance(labels, WordLabels) and len(label) != shape[1]:
            raise PluginError(f"decode must give {shape[1]} labels for a text of {shape[1]} words, got {len(label)}")
    if isinstance(labels, Numbers):
        if decoded.probabilities is not None:
            raise PluginError("decode must give no probabilities of numbers")
    else:
        check_probabilities(decoded.probabilities, shape[:-1], labels)
    return decoded


def _check_label(label: object, labels: LabelSpace) -> None:
    """Check that a label is one of a label space.

    Raises:
        PluginError: it is not.
    """
    if isinstance(labels, Numbers):
        several = len(labels.names) > 1
        numbers = list(label.values()) if several and isinstance(label, dict) else [label]
        if (several and (not isinstance(label, dict) or tuple(label) != labels.names)) or not all(
            isinstance(number, float) for number in numbers
        ):
            wanted = f"dictionaries of numbers by name ({', '.join(labels.names)})" if several else "numbers (float)"
            raise PluginError(f"decode must give labels that are {wanted}, got {_shown(label)}")
        return
    if isinstance(labels, LabelSet | WordLabels):
        if not isinstance(label, tuple):
            raise PluginError(f"decode must give labels that are tuples of names, got {_shown(label)}")
        names: tuple[object, ...] = label
    else:
        names = (label,)
    if strange := [name for name in names if not isinstance(name, str)]:
        raise PluginError(f"decode must give labels that are texts, got {_shown(strange[0])}")
    if unknown := [name for name in names if name not in labels.names]:
        raise PluginError(f"decode must give labels that are classes, got {quote(unknown[0])}")


def check_probabilities(likely: object, items: Sequence[int], labels: LabelSpace) -> None:
    """Check probabilities: of each class, to sum to 1, or of each label of a set.

    Args:
        items: how many texts, (N,), or texts and words, (N, S), they are of.

    Raises:
        PluginError: they are none.
    """
    expected = (*items, len(labels.names))
    if not isinstance(likely, Tensor) or likely.shape != expected:
        shape = tuple(likely.shape) if isinstance(likely, Tensor) else _shown(likely)
        raise PluginError(f"decode must give probabilities {expected}, got {shape}")
    low, high = float(likely.min()), float(likely.max())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise PluginError(f"probabilities must be from 0 to 1, but decode gives numbers from {low:.3g} to {high:.3g}")
    sums = likely.sum(dim=-1).flatten()
    if not isinstance(labels, LabelSet) and not ((sums - 1).abs() <= TOLERANCE).all():
        farthest = float(sums[(sums - 1).abs().argmax()])
        raise PluginError(f"the probabilities of a text must sum to 1, but decode gives a sum of {farthest:.3g}")


def check_scores(name: str, scores: object, rows: int, *, combined: bool = False) -> Tensor:
    """Return what a metric gave for some rows.

    Args:
        combined: whether it gives counts for each row, to be combined.

    Raises:
        PluginError: it is neither one number nor a score for each row, or not counts for each.
    """
    if not isinstance(scores, Tensor):
        raise PluginError(f"metric {name!r} must give a tensor, got {_shown(scores)}; wrap it in torch.tensor(...)")
    if not scores.is_floating_point():
        raise PluginError(f"metric {name!r} must give floating-point numbers, got {scores.dtype}; use .float()")
    if combined:
        if scores.ndim != 2 or len(scores) != rows:
            raise PluginError(
                f"metric {name!r} must give counts for each of {texts(rows)}, shape ({rows}, K), which it combines, "
                f"got shape {tuple(scores.shape)}"
            )
    elif scores.shape not in ((), (rows,)):
        raise PluginError(
            f"metric {name!r} must give one number, shape (), or one for each of {texts(rows)}, shape ({rows},), "
            f"got shape {tuple(scores.shape)}"
        )
    return scores


def denominator_of(head: Head, targets: Tensor, device: torch.device) -> float:
    """Return what the loss of a head, computed on ``device``, divides by for these targets (B, ...)."""
    if head.denominator is not None:
        return float(head.denominator(targets.to(device)))
    return float((targets != NO_LABEL).sum()) if are_of_words(targets) else float(len(targets))


def check_denominator(value: object) -> Tensor:
    """Return what a denominator gave.

    Raises:
        PluginError: it is not a number from 0.
    """
    if not isinstance(value, Tensor) or value.shape != () or not 0 <= float(value) < float("inf"):
        raise PluginError(f"the denominator must be one number from 0, shape (), got {_shown(value)}")
    return value


def _checked_metric(metric: Metric, config: HeadConfig, where: str) -> Metric:
    def compute(outputs: Tensor, targets: Tensor) -> Tensor:
        with part_errors(config, where, f"metric {metric.name!r}"):
            scores = metric.compute(outputs.clone(), targets.clone())
            return check_scores(metric.name, scores, len(targets), combined=metric.combine is not None)

    def combine(counts: Tensor) -> Tensor:
        assert metric.combine is not None
        with part_errors(config, where, f"metric {metric.name!r}"):
            combined: object = metric.combine(counts.clone())
            if not isinstance(combined, Tensor) or combined.shape != ():
                raise PluginError(f"metric {metric.name!r} must combine counts to one number, got {_shown(combined)}")
            return combined

    def weighted(outputs: Tensor, targets: Tensor) -> WeightedMetric:
        assert metric.weighted is not None
        with part_errors(config, where, f"metric {metric.name!r}"):
            measure = metric.weighted(outputs.clone(), targets.clone())

        def measure_checked(counts: Tensor) -> Tensor:
            with part_errors(config, where, f"metric {metric.name!r}"):
                return check_scores(metric.name, measure(counts.clone()), 0, combined=False)

        return measure_checked

    return dataclasses.replace(
        metric,
        compute=compute,
        combine=combine if metric.combine else None,
        weighted=weighted if metric.weighted else None,
    )


def _checked_figure(figure: HeadFigure, config: HeadConfig, where: str) -> HeadFigure:
    def draw(outputs: Tensor, targets: Tensor, labels: LabelSpace) -> "Figure":
        with part_errors(config, where, f"figure {figure.name!r}"):
            return _check_drawn(figure.name, figure.draw(outputs.clone(), targets.clone(), labels))

    def table(outputs: Tensor, targets: Tensor, labels: LabelSpace) -> str:
        assert figure.table is not None
        with part_errors(config, where, f"the table of figure {figure.name!r}"):
            written: object = figure.table(outputs.clone(), targets.clone(), labels)
            if not isinstance(written, str):
                raise PluginError(f"the table of figure {figure.name!r} must be a text, got {_shown(written)}")
            return written

    return dataclasses.replace(figure, draw=draw, table=table if figure.table else None)


def _check_drawn(name: str, drawn: object) -> "Figure":
    from matplotlib.figure import Figure

    if not isinstance(drawn, Figure):
        raise PluginError(f"figure {name!r} must give a matplotlib Figure, got {_shown(drawn)}")
    return drawn


def _described(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}" if tensor.is_floating_point() else f"type {tensor.dtype}"


def texts(count: int) -> str:
    """Write a number of texts."""
    return "1 text" if count == 1 else f"{count:,} texts"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"{len(value)}"
    return f"{quote(value)} of type {type(value).__name__}"
