"""From a source and its label columns to texts and targets, split by split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.data.splits import divide
from topwork.data.table import Table, read_table, summarize
from topwork.errors import DataError
from topwork.experiment.schema import SPLITS, Source, Split, SplitName
from topwork.interfaces.head import Classes


@dataclass(frozen=True)
class DataSplit:
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
        splits: those that have rows; always train.
        labels: the classes of each task, from the training rows.
        digests: sha256 of each file's bytes, by file.
        warnings: what the researcher should know, with counts.
    """

    splits: dict[SplitName, DataSplit]
    labels: dict[str, Classes]
    digests: dict[Path, str]
    warnings: list[str]

    @property
    def digest(self) -> str:
        """The sha256 of every file, in one line."""
        return " ".join(self.digests.values())


def load_dataset(source: Source, columns: Mapping[str, str]) -> Dataset:
    """Read, check and divide the rows of a source.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: files, rows, labels or splits are wrong.
    """
    tables, digests = read_splits(source, columns)
    labels = {task: _classes(task, tables["train"].columns[column]) for task, column in columns.items()}
    splits = {name: DataSplit(table.texts, encode_labels(table, columns, labels)) for name, table in tables.items()}
    return Dataset(splits, labels, digests, _overlaps(tables))


def read_splits(source: Source, columns: Mapping[str, str]) -> tuple[dict[SplitName, Table], dict[Path, str]]:
    """Read a source's files and divide their rows.

    Args:
        columns: the label column of each task.

    Returns:
        The rows of each split, and the sha256 of each file.

    Raises:
        DataError: files, rows or splits are wrong.
    """
    split = source.split or Split()
    wanted = list(dict.fromkeys([*columns.values(), *([split.by] if split.by else [])]))
    tables = {name: read_table(path, source, wanted) for name, path in source.files().items()}
    digests = {path: tables[name].digest for name, path in source.files().items()}
    if "all" not in tables:
        return {name: tables[name] for name in SPLITS if name in tables}, digests
    table = tables["all"]
    strata = table.columns[split.by] if split.by else None
    return {name: _take(table, rows) for name, rows in divide(len(table.texts), split, strata).items()}, digests


def read_all_rows(path: Path, source: Source, columns: Mapping[str, str], labels: Mapping[str, Classes]) -> DataSplit:
    """Read all rows of one file for tasks whose classes are known.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: rows or labels are wrong.
    """
    table = read_table(path, source, list(dict.fromkeys(columns.values())))
    return DataSplit(table.texts, encode_labels(table, columns, labels))


def encode_labels(
    table: Table, columns: Mapping[str, str], labels: Mapping[str, Classes]
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
            f"{location}: {column}: label {label!r} of task {task} does not occur in the training rows, "
            f"which have {known}"
            for location, label in zip(table.locations, table.columns[column], strict=True)
            if label not in numbers
        ]
        targets[task] = np.array([numbers.get(label, -1) for label in table.columns[column]], dtype=np.int64)
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


def _take(table: Table, rows: NDArray[np.int64]) -> Table:
    columns = {name: [values[row] for row in rows] for name, values in table.columns.items()}
    texts, locations = [table.texts[row] for row in rows], [table.locations[row] for row in rows]
    return Table(texts, columns, locations, table.digest)


def _overlaps(tables: Mapping[SplitName, Table]) -> list[str]:
    """Say how many texts of a later split also occur in an earlier one."""
    warnings = []
    seen: dict[str, tuple[SplitName, str]] = {}
    for name, table in tables.items():
        common: dict[SplitName, list[str]] = {}
        for location, text in zip(table.locations, table.texts, strict=True):
            earlier, first_location = seen.setdefault(text, (name, location))
            if earlier != name:
                common.setdefault(earlier, []).append(f"{location}, the same as {first_location}")
        warnings += [
            f"{len(locations)} of {len(table.texts)} {name} texts also occur in {earlier}, which flatters the results; "
            f"the first is {locations[0]}"
            for earlier, locations in common.items()
        ]
    texts = tables["train"].texts
    if repeated := len(texts) - len(set(texts)):
        warnings.append(f"{repeated} of {len(texts)} training texts repeat an earlier one")
    return warnings
