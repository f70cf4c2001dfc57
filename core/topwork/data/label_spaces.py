"""From the labels of the training rows to a label space, and from labels to targets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from topwork.data.label_reader import RowLabel, heads_for
from topwork.data.labels import read_number
from topwork.errors import DataError, quote
from topwork.experiment.label_format import LabelColumns
from topwork.interfaces.labels import NO_LABEL, Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels

#: By how much of a column's standard deviation its numbers may be rounded in single precision.
MAX_ROUNDING = 1e-3


def find_space(
    task: str, space: type[LabelSpace], columns: LabelColumns, labels: Sequence[RowLabel | None]
) -> LabelSpace:
    """Return the label space that the labels of the training rows make up.

    Raises:
        DataError: there is nothing to learn in them, or they are numbers where classes are wanted.
    """
    known = [label for label in labels if label is not None]
    if not known:
        raise DataError(
            f"task {task} has no label in its {len(labels):,} training rows; look at the split or the limit"
        )
    order = columns.format.order
    if space is Numbers:
        return _find_numbers(task, columns.names, cast("Sequence[tuple[float, ...]]", known))
    if space is Distribution:
        shares = cast("Sequence[Mapping[str, float]]", known)
        names = order or _own_columns(columns) or _in_order({name for of_row in shares for name in of_row})
        _check_several(task, names, len(known))
        return Distribution(tuple(names))
    if space is LabelSet:
        sets = cast("Sequence[tuple[str, ...]]", known)
        counts = Counter(name for of_row in sets for name in of_row)
        if not counts:
            raise DataError(f"task {task} has only empty sets of labels in its {len(known):,} training rows")
        names = order or _own_columns(columns) or _in_order(counts)
        return LabelSet(tuple(names), tuple(counts[name] for name in names))
    if space is WordLabels:
        by_word = cast("Sequence[tuple[str | None, ...]]", known)
        counts = Counter(name for of_row in by_word for name in of_row if name is not None)
        names = order or _in_order(counts)
        _check_several(task, list(counts), len(known))
        return WordLabels(tuple(names), tuple(counts[name] for name in names))
    counts = Counter(cast("Sequence[str]", known))
    if order is None:
        _check_not_numbers(task, columns, list(counts))
    names = order or _in_order(counts)
    _check_several(task, list(counts), len(known))
    return Classes(tuple(names), bool(order) or _are_numbered(names), tuple(counts[name] for name in names))


def encode(labels: Sequence[RowLabel | None], space: LabelSpace) -> NDArray[Any]:
    """Return the targets (N, ...) of N labels, all of which are known; where there is none, zeros."""
    if isinstance(space, Numbers):
        nothing = (0.0,) * len(space.names)
        return np.array([label or nothing for label in labels], dtype=np.float32).reshape(len(labels), len(space.names))
    number_of = {name: number for number, name in enumerate(space.names)}
    if isinstance(space, Classes):
        return np.array([number_of[label] if isinstance(label, str) else 0 for label in labels], dtype=np.int64)
    if isinstance(space, WordLabels):
        by_word = [cast("tuple[str | None, ...]", label or ()) for label in labels]
        targets = np.full((len(labels), max(map(len, by_word), default=0)), NO_LABEL)
        for row, names in enumerate(by_word):
            targets[row, : len(names)] = [NO_LABEL if name is None else number_of[name] for name in names]
        return targets
    targets = np.zeros((len(labels), len(space.names)), dtype=np.float32)
    for row, label in enumerate(labels):
        if isinstance(label, dict):
            targets[row, [number_of[name] for name in label]] = list(label.values())
        elif label:
            targets[row, [number_of[str(name)] for name in label]] = 1.0
    return targets


def unknown_names(label: RowLabel | None, space: LabelSpace) -> list[str]:
    """Return the names in a label that its space does not have."""
    if label is None or isinstance(space, Numbers):
        return []
    names = [label] if isinstance(label, str) else [name for name in label if name is not None]
    return [str(name) for name in dict.fromkeys(names) if name not in space.names]


def _find_numbers(task: str, names: tuple[str, ...], labels: Sequence[tuple[float, ...]]) -> Numbers:
    values = np.array(labels, dtype=np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    spread = np.ptp(values, axis=0)  # the deviation of equal numbers need not be 0
    if constant := [name for name, one in zip(names, spread, strict=True) if not one > 0]:
        raise DataError(
            f"task {task} has one number only in its {len(labels):,} training rows, in column "
            f"{', '.join(constant)}; there is nothing to learn; look at the split or the limit"
        )
    lost = np.abs(values - values.astype(np.float32)).max(axis=0) > MAX_ROUNDING * scale
    if rounded := [name for name, one in zip(names, lost, strict=True) if one]:
        raise DataError(
            f"task {task}: the numbers in column {', '.join(rounded)} differ too little for their size to be told "
            "apart in single precision; subtract a constant from all, such as their mean"
        )
    return Numbers(names, tuple(mean.tolist()), tuple(scale.tolist()))


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
