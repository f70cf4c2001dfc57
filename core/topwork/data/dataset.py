"""From an experiment to texts and targets, split by split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.data.rows import Rows, read_rows, summarize
from topwork.data.splits import divide
from topwork.errors import DataError
from topwork.experiment.schema import SPLITS, Experiment, Source, Split, SplitName
from topwork.interfaces.head import Classes


@dataclass(frozen=True)
class Part:
    """The rows of one split.

    Attributes:
        texts: N texts.
        targets: for each task, (N,) int64 class numbers.
    """

    texts: list[str]
    targets: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Dataset:
    """All rows of an experiment.

    Attributes:
        parts: the splits that have rows; always train.
        labels: the classes of each task, from the training rows.
        digests: sha256 of each file's bytes, by file.
        warnings: what the researcher should know, with counts.
    """

    parts: dict[SplitName, Part]
    labels: dict[str, Classes]
    digests: dict[Path, str]
    warnings: list[str]

    @property
    def digest(self) -> str:
        """The sha256 of every file, in one line."""
        return " ".join(self.digests.values())


def load_dataset(experiment: Experiment) -> Dataset:
    """Read, check and divide the rows that the experiment's tasks learn from.

    Raises:
        DataError: files, rows, labels or splits are at fault.
    """
    _, source = experiment.source
    columns = {name: task.label for name, task in experiment.tasks.items()}
    splits, digests = read_splits(source, columns)
    labels = {task: _classes(task, splits["train"].columns[column]) for task, column in columns.items()}
    parts = {name: Part(rows.texts, encode_labels(rows, columns, labels)) for name, rows in splits.items()}
    return Dataset(parts, labels, digests, _overlaps(splits))


def read_splits(source: Source, columns: Mapping[str, str]) -> tuple[dict[SplitName, Rows], dict[Path, str]]:
    """Read a source's files and divide their rows.

    Args:
        columns: the label column of each task.

    Returns:
        The rows of each split, and the sha256 of each file.

    Raises:
        DataError: files, rows or splits are at fault.
    """
    split = source.split or Split()
    wanted = list(dict.fromkeys([*columns.values(), *([split.by] if split.by else [])]))
    read = {name: read_rows(path, source, wanted) for name, path in source.files().items()}
    digests = {path: read[name].digest for name, path in source.files().items()}
    if "all" not in read:
        return {name: read[name] for name in SPLITS if name in read}, digests
    rows = read["all"]
    strata = rows.columns[split.by] if split.by else None
    return {name: _take(rows, numbers) for name, numbers in divide(len(rows.texts), split, strata).items()}, digests


def read_part(path: Path, source: Source, columns: Mapping[str, str], labels: Mapping[str, Classes]) -> Part:
    """Read all rows of one file for tasks whose classes are known.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: rows or labels are at fault.
    """
    rows = read_rows(path, source, list(dict.fromkeys(columns.values())))
    return Part(rows.texts, encode_labels(rows, columns, labels))


def encode_labels(
    rows: Rows, columns: Mapping[str, str], labels: Mapping[str, Classes]
) -> dict[str, NDArray[np.int64]]:
    """Turn label columns into class numbers.

    Raises:
        DataError: names the rows whose label was not met in training.
    """
    unseen: list[str] = []
    targets = {}
    for task, column in columns.items():
        numbers = {name: number for number, name in enumerate(labels[task].names)}
        known = ", ".join(labels[task].names)
        unseen += [
            f"{place}: {column}: label {label!r} of task {task} does not occur in the training rows, which have {known}"
            for place, label in zip(rows.places, rows.columns[column], strict=True)
            if label not in numbers
        ]
        targets[task] = np.array([numbers.get(label, -1) for label in rows.columns[column]], dtype=np.int64)
    if unseen:
        raise DataError("\n".join(summarize(unseen)))
    return targets


def _classes(task: str, labels: Sequence[str]) -> Classes:
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise DataError(
            f"task {task} has one class only in its {len(labels)} training rows, {names[0]!r}; "
            "there is nothing to learn; look at the split or the limit"
        )
    return Classes(names)


def _take(rows: Rows, numbers: NDArray[np.int64]) -> Rows:
    columns = {name: [values[i] for i in numbers] for name, values in rows.columns.items()}
    return Rows([rows.texts[i] for i in numbers], columns, [rows.places[i] for i in numbers], rows.digest)


def _overlaps(splits: Mapping[SplitName, Rows]) -> list[str]:
    """Say how many texts of a later split also occur in an earlier one."""
    warnings = []
    seen: dict[str, tuple[SplitName, str]] = {}
    for name, rows in splits.items():
        common: dict[SplitName, list[str]] = {}
        for place, text in zip(rows.places, rows.texts, strict=True):
            earlier, first_place = seen.setdefault(text, (name, place))
            if earlier != name:
                common.setdefault(earlier, []).append(f"{place}, the same as {first_place}")
        warnings += [
            f"{len(places)} of {len(rows.texts)} {name} texts also occur in {earlier}, which flatters the results; "
            f"the first is {places[0]}"
            for earlier, places in common.items()
        ]
    repeated = len(splits["train"].texts) - len(set(splits["train"].texts))
    if repeated:
        warnings.append(f"{repeated} of {len(splits['train'].texts)} training texts repeat an earlier one")
    return warnings
