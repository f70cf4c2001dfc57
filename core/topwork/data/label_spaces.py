"""From the labels of the training rows to a label space, and from labels to targets."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork import mapped
from topwork.data.label_column import LabelColumn
from topwork.data.label_reader import heads_for
from topwork.data.labels import read_number
from topwork.data.row_values import PART
from topwork.errors import DataError, quote
from topwork.experiment.label_format import LabelColumns
from topwork.interfaces.labels import NO_LABEL, Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels

#: By how much of a column's standard deviation its numbers may be rounded in single precision.
MAX_ROUNDING = 1e-3


def find_space(task: str, space: type[LabelSpace], columns: LabelColumns, labels: LabelColumn) -> LabelSpace:
    """Return the label space that the labels of the training rows make up.

    Raises:
        DataError: there is nothing to learn in them, or they are numbers where classes are wanted.
    """
    known = int(labels.labelled.sum())
    if not known:
        raise DataError(
            f"task {task} has no label in its {len(labels):,} training rows; look at the split or the limit"
        )
    if space is Numbers:
        return _find_numbers(task, columns.names, _known_numbers(labels, known, len(columns.names)))
    counts = labels.counts()
    names = columns.format.order
    if space is LabelSet and not counts:
        raise DataError(f"task {task} has only empty sets of labels in its {known:,} training rows")
    if space in (LabelSet, Distribution):
        names = names or tuple(_own_columns(columns))
    if space is Classes and names is None:
        _check_not_numbers(task, columns, list(counts))
    ordered = bool(names)
    names = names or tuple(_in_order(counts))
    if space is Distribution:
        _check_several(task, names, known)
        return Distribution(names)
    of_names = tuple(counts.get(name, 0) for name in names)
    if space is LabelSet:
        return LabelSet(names, of_names)
    _check_several(task, list(counts), known)
    if space is WordLabels:
        return WordLabels(names, of_names)
    return Classes(names, ordered or _are_numbered(names), of_names)


def encode(labels: LabelColumn, space: LabelSpace) -> NDArray[Any]:
    """Return the targets (N, ...) of N labels, all of which are known; where there is none, those of ``no_targets``."""
    words = int(labels.lengths.max(initial=0)) if isinstance(space, WordLabels) else 0
    targets = no_targets(len(labels), space, words)
    number_of = {name: number for number, name in enumerate(space.names)}
    numbers = np.array([number_of.get(name, NO_LABEL) for name in labels.names] + [NO_LABEL])  # the last: of no name
    for entries in labels.entries():
        if isinstance(space, Numbers):
            targets[entries.rows, entries.places] = entries.numbers
        elif isinstance(space, Classes):
            targets[entries.rows] = numbers[entries.codes]
        elif isinstance(space, WordLabels):
            targets[entries.rows, entries.places] = numbers[entries.codes]
        elif isinstance(space, Distribution):
            targets[entries.rows, numbers[entries.codes]] = entries.numbers
        else:
            targets[entries.rows, numbers[entries.codes]] = 1.0
    return targets


def no_targets(count: int, space: LabelSpace, words: int = 0) -> NDArray[Any]:
    """Return the targets (N, ...) of rows without labels: zeros, and of words ``NO_LABEL``.

    Args:
        count: of rows.
        words: of the longest of all texts.
    """
    if isinstance(space, WordLabels):
        targets = mapped.zeros((count, words), np.int64)
        targets[:] = NO_LABEL
        return targets
    if isinstance(space, Classes):
        return mapped.zeros(count, np.int64)
    return mapped.zeros((count, len(space.names)), np.float32)


def find_unknown(labels: LabelColumn, space: LabelSpace, most: int) -> tuple[list[tuple[int, str]], int]:
    """Return where labels have names that a space does not have: row and name of the first, and how many there are.

    Args:
        most: how many to return.
    """
    first: list[tuple[int, str]] = []
    names = set(space.names)
    known = np.array([name in names for name in labels.names] + [True])  # the last: of no name
    if isinstance(space, Numbers) or known.all():
        return first, 0
    count = 0
    for entries in labels.entries():
        unknown = ~known[entries.codes]
        pairs = np.stack([entries.rows[unknown], entries.codes[unknown]], axis=1)
        _, places = np.unique(pairs, axis=0, return_index=True)  # words of a row may have one label
        count += len(places)
        found = pairs[np.sort(places)[: most - len(first)]].tolist()
        first += [(row, labels.names[code]) for row, code in found]
    return first, count


def _known_numbers(labels: LabelColumn, known: int, width: int) -> NDArray[np.float64]:
    """Return the numbers (known, width) of the rows that have some."""
    values = mapped.zeros(known * width, np.float64)
    start = 0
    for entries in labels.entries():
        values[start : start + len(entries.numbers)] = entries.numbers
        start += len(entries.numbers)
    return values.reshape(known, width)


def _find_numbers(task: str, names: tuple[str, ...], values: NDArray[np.float64]) -> Numbers:
    mean, scale = values.mean(axis=0), _standard_deviation(values)
    spread = np.ptp(values, axis=0)  # the deviation of equal numbers need not be 0
    if constant := [name for name, one in zip(names, spread, strict=True) if not one > 0]:
        raise DataError(
            f"task {task} has one number only in its {len(values):,} training rows, in column "
            f"{', '.join(constant)}; there is nothing to learn; look at the split or the limit"
        )
    rounded_by = np.zeros(len(names))
    for start in range(0, len(values), PART):
        part = values[start : start + PART]
        rounded_by = np.maximum(rounded_by, np.abs(part - part.astype(np.float32)).max(axis=0))
    if rounded := [name for name, one in zip(names, rounded_by > MAX_ROUNDING * scale, strict=True) if one]:
        raise DataError(
            f"task {task}: the numbers in column {', '.join(rounded)} differ too little for their size to be told "
            "apart in single precision; subtract a constant from all, such as their mean"
        )
    return Numbers(names, tuple(mean.tolist()), tuple(scale.tolist()))


def _standard_deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Do as ``values.std(axis=0)`` does, to the same bits, but not with as much memory again."""
    squares = mapped.zeros(values.shape, np.float64)
    np.subtract(values, values.mean(axis=0), out=squares)
    np.multiply(squares, squares, out=squares)
    found: NDArray[np.float64] = np.sqrt(squares.sum(axis=0) / len(values))
    return found


def _own_columns(columns: LabelColumns) -> list[str]:
    """Return the names of labels or classes that have a column each; none where one column has all."""
    names = [columns.format.rename.get(name, name) for name in columns.names]
    return list(dict.fromkeys(names)) if len(names) > 1 else []


def _check_several(task: str, names: Sequence[str], rows: int) -> None:
    if len(names) < 2:
        raise DataError(
            f"task {task} has one class only in its {rows:,} training rows, {quote(names[0])}; "
            "there is nothing to learn; look at the split or the limit"
        )


def _check_not_numbers(task: str, columns: LabelColumns, names: Sequence[str]) -> None:
    """Check that the names of classes are not measurements.

    Raises:
        DataError: all are numbers, and some are not whole.
    """
    try:
        numbers = [read_number(name) for name in names]
    except ValueError:
        return
    odd = [name for name in names if not _is_whole(name)]
    if not odd:
        return
    raise DataError(
        f"task {task}: column {columns.names[0]} holds {len(set(numbers)):,} different numbers, such as "
        f"{', '.join(odd[:3])}, but head {columns.head or 'classification'} takes one of several classes; for numbers "
        f"use head {heads_for(Numbers)}; "
        f"if they are names of classes, list them all in tasks.{task}.labels.order"
    )


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort names: by value where all are whole numbers."""
    ordered = sorted(names)
    return sorted(ordered, key=int) if all(map(_is_whole, ordered)) else ordered


def _are_numbered(names: Sequence[str]) -> bool:
    return all(map(_is_whole, names)) and len({int(name) for name in names}) == len(names)


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isascii() and name.removeprefix("-").isdigit()
