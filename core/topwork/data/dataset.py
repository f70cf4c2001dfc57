"""From a source and its label columns to texts and targets, split by split."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.data.labels import describe_similar
from topwork.data.splits import divide
from topwork.data.table import SHOWN, Table, read_table, summarize
from topwork.errors import DataError, did_you_mean, enumerate_names, quote
from topwork.experiment.schema import SPLITS, LabelColumn, Source, Split, SplitName
from topwork.interfaces.head import Classes

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class SplitTables:
    """The rows of each split, as they were read.

    Attributes:
        tables: the rows of each split.
        digests: sha256 of each file's bytes, by file.
        warnings: what the researcher should know about how the files were read, with counts.
    """

    tables: dict[SplitName, Table]
    digests: dict[Path, str]
    warnings: list[str]


def load_dataset(source: Source, columns: Mapping[str, LabelColumn]) -> Dataset:
    """Read, check and divide the rows of a source.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: files, rows, labels or splits are wrong.
    """
    found = read_splits(source, columns)
    tables, train = found.tables, found.tables["train"]
    labels = {task: _classes(task, train.labels[task]) for task in columns}
    splits = {name: DataSplit(table.texts, encode_labels(table, columns, labels)) for name, table in tables.items()}
    similar = [
        warning
        for task, column in columns.items()
        for warning in describe_similar(
            task, zip(train.labels[task], train.locations, strict=True), column.normalization
        )
    ]
    return Dataset(splits, labels, found.digests, [*found.warnings, *similar, *_overlaps(tables)])


def read_splits(source: Source, columns: Mapping[str, LabelColumn]) -> SplitTables:
    """Read a source's files and divide their rows.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: files, rows or splits are wrong.
    """
    split = source.split or Split()
    tables = {name: read_table(path, source, columns, by=split.by) for name, path in source.files().items()}
    digests = {path: tables[name].digest for name, path in source.files().items()}
    warnings = [warning for table in tables.values() for warning in table.warnings]
    if "all" not in tables:
        return SplitTables({name: tables[name] for name in SPLITS if name in tables}, digests, warnings)
    table = tables["all"]
    divided = divide(len(table.texts), split, table.strata if split.by else None)
    return SplitTables({name: _take(table, rows) for name, rows in divided.items()}, digests, warnings)


def read_all_rows(
    path: Path, source: Source, columns: Mapping[str, LabelColumn], labels: Mapping[str, Classes]
) -> DataSplit:
    """Read all rows of one file for tasks whose classes are known, and warn of what the file is like.

    Args:
        columns: the label column of each task.

    Raises:
        DataError: rows or labels are wrong.
    """
    table = read_table(path, source, columns)
    for warning in table.warnings:
        logger.warning(warning)
    return DataSplit(table.texts, encode_labels(table, columns, labels))


def encode_labels(
    table: Table, columns: Mapping[str, LabelColumn], labels: Mapping[str, Classes]
) -> dict[str, NDArray[np.int64]]:
    """Turn labels into class numbers.

    Raises:
        DataError: names the rows whose label was not met in training.
    """
    unseen: list[tuple[str, str, str]] = []
    targets = {}
    for task in columns:
        numbers = {name: number for number, name in enumerate(labels[task].names)}
        rows = list(zip(table.locations, table.labels[task], strict=True))
        unseen += [(location, task, label) for location, label in rows if label not in numbers]
        targets[task] = np.array([numbers.get(label, -1) for _, label in rows], dtype=np.int64)
    if unseen:
        problems = [_unseen(*one, columns, labels) for one in unseen[:SHOWN]]
        raise DataError("\n".join(summarize(problems, len(unseen))))
    return targets


def _unseen(
    location: str, task: str, label: str, columns: Mapping[str, LabelColumn], labels: Mapping[str, Classes]
) -> str:
    names = labels[task].names
    few = len(names) <= 6
    known = enumerate_names(names) if few else f"{len(names):,} other classes{did_you_mean(label, names)}"
    return (
        f"{location}: {columns[task].name}: label {quote(label)} of task {task} does not occur in the training rows, "
        f"which have {known}"
    )


def _classes(task: str, labels: Sequence[str]) -> Classes:
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise DataError(
            f"task {task} has one class only in its {len(labels)} training rows, {quote(names[0])}; "
            "there is nothing to learn; look at the split or the limit"
        )
    return Classes(names)


def _take(table: Table, rows: NDArray[np.int64]) -> Table:
    labels = {task: [values[row] for row in rows] for task, values in table.labels.items()}
    texts, locations = [table.texts[row] for row in rows], [table.locations[row] for row in rows]
    return Table(texts, labels, locations=locations)


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
