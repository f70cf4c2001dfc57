"""From a source and its label columns to texts and targets, split by split."""

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from topwork import mapped
from topwork.data.label_reader import describe_spaces
from topwork.data.label_spaces import encode, find_space, find_unknown, no_targets
from topwork.data.labels import describe_similar
from topwork.data.overlaps import describe_overlaps
from topwork.data.row_values import Rows, some_of
from topwork.data.splits import divide
from topwork.data.table import SHOWN, Table, read_table, summarize
from topwork.data.text_column import Texts
from topwork.data.texts import Text
from topwork.errors import DataError, did_you_mean, enumerate_names, quote
from topwork.experiment.label_format import LabelColumns
from topwork.experiment.source import SPLITS, Source, Split, SplitName
from topwork.interfaces.labels import Classes, LabelSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSplit:
    """The rows of one split, those of one source after those of another.

    Attributes:
        texts: N texts, or pairs of them.
        targets: for each task, (N, ...) as its label space says; anything where a row has no label of it.
        labelled: for each task, (N,) bool, whether a row has a label of it.
        source_sizes: how many rows each source has, by its name, in their order.
    """

    texts: Sequence[Text]
    targets: dict[str, NDArray[Any]]
    labelled: dict[str, NDArray[np.bool_]]
    source_sizes: dict[str, int]

    def texts_of(self, task: str) -> Sequence[Text]:
        """Return the texts that have a label of a task."""
        if isinstance(self.texts, Texts):
            return self.texts.take(np.flatnonzero(self.labelled[task]))
        return list(itertools.compress(self.texts, self.labelled[task]))

    def of_task(self, task: str) -> tuple[Sequence[Text], NDArray[Any]]:
        """Return the texts that have a label of a task, and its targets."""
        return self.texts_of(task), some_of(self.targets[task], np.flatnonzero(self.labelled[task]))

    @property
    def labelled_counts(self) -> dict[str, int]:
        """How many rows have a label of each task."""
        return {task: int(labelled.sum()) for task, labelled in self.labelled.items()}

    def sizes_of(self, tasks: Collection[str]) -> dict[str, int]:
        """How many rows of each source have a label of some of ``tasks``; sources without any are left out."""
        labelled = np.any([self.labelled[task] for task in tasks], axis=0)
        ends = np.cumsum([0, *self.source_sizes.values()])
        counts = {
            name: int(labelled[start:end].sum())
            for name, (start, end) in zip(self.source_sizes, pairwise(ends), strict=True)
        }
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class Dataset:
    """All rows of an experiment.

    Attributes:
        splits: those that have rows; always train.
        labels: the label space of each task, from the training rows.
        digests: sha256 of each file's bytes, by file.
        warnings: what the researcher should know, with counts.
    """

    splits: dict[SplitName, DataSplit]
    labels: dict[str, LabelSpace]
    digests: dict[Path, str]
    warnings: list[str]

    @property
    def digest(self) -> str:
        """The sha256 of every file, in one line."""
        return " ".join(self.digests.values())

    def tasks_with_labels(self, split: SplitName) -> list[str]:
        """The tasks of which some row of a split has a label."""
        counts = self.splits[split].labelled_counts if split in self.splits else {}
        return [task for task, count in counts.items() if count]


@dataclass(frozen=True)
class SplitTables:
    """The rows of each split of one source, as they were read.

    Attributes:
        tables: the rows of each split.
        digests: sha256 of each file's bytes, by file.
        warnings: what the researcher should know about how the files were read, with counts.
    """

    tables: dict[SplitName, Table]
    digests: dict[Path, str]
    warnings: list[str]

    def renamed(self, task: str) -> set[str]:
        """Return the labels of a task that were given other names."""
        return set[str]().union(*(table.renamed.get(task, ()) for table in self.tables.values()))


def load_dataset(data: Mapping[str, Source], columns: Mapping[str, Mapping[str, LabelColumns]]) -> Dataset:
    """Read, check and divide the rows of all sources.

    Args:
        data: the sources by name.
        columns: for each source, the label columns of each task that reads it.

    Raises:
        DataError: files, rows, labels or splits are wrong.
    """
    found = {name: read_splits(source, columns[name]) for name, source in data.items()}
    parts: dict[SplitName, dict[str, DataSplit]] = {}
    labels: dict[str, LabelSpace] = {}
    warnings: list[str] = []
    for source, of_source in found.items():
        train = of_source.tables["train"]
        spaces = {
            task: find_space(task, train.spaces.get(task, Classes), of_task, train.labels[task])
            for task, of_task in columns[source].items()
        }
        for split, table in of_source.tables.items():
            parts.setdefault(split, {})[source] = encode_rows(table, source, columns[source], spaces, in_training=True)
        labels |= spaces
        warnings += of_source.warnings
        for task, of_task in columns[source].items():
            warnings += describe_similar(task, train.labels[task], train.locations, of_task.format)
            unused = of_task.format.rename.keys() - of_source.renamed(task)
            if unused:
                missing = enumerate_names(sorted(unused))
                warnings.append(f"task {task} has no label {missing}, which labels.rename gives another name")
    splits = {split: _join(parts[split], labels) for split in SPLITS if split in parts}
    digests = {path: digest for of_source in found.values() for path, digest in of_source.digests.items()}
    warnings += describe_overlaps({name: of_source.tables for name, of_source in found.items()})
    dataset = Dataset(splits, labels, digests, warnings)
    return replace(dataset, warnings=[*warnings, *_without_labels(dataset)])


def read_splits(source: Source, columns: Mapping[str, LabelColumns]) -> SplitTables:
    """Read a source's files and divide their rows.

    Args:
        columns: the label columns of each task.

    Raises:
        DataError: files, rows or splits are wrong.
    """
    split = source.split or Split()
    divided: Mapping[str, str | None] = {"all": split.by, "train": split.by}  # the others need no strata
    tables = {name: read_table(path, source, columns, by=divided.get(name)) for name, path in source.files().items()}
    digests = {path: tables[name].digest for name, path in source.files().items()}
    warnings = [warning for table in tables.values() for warning in table.warnings]
    if "all" in tables:
        return SplitTables(_divide(tables["all"], split), digests, warnings)
    parts = {name: tables[name] for name in SPLITS if name in tables}
    if source.split:
        parts |= _divide(tables["train"], source.split.without_test)
    return SplitTables({name: parts[name] for name in SPLITS if name in parts}, digests, warnings)


def read_all_rows(
    path: Path, source: Source, name: str, columns: Mapping[str, LabelColumns], labels: Mapping[str, LabelSpace]
) -> DataSplit:
    """Read all rows of one file for tasks whose label spaces are known, and warn of what the file is like.

    Args:
        name: of the source.
        columns: the label columns of each task.

    Raises:
        DataError: rows or labels are wrong.
    """
    table = read_table(path, source, columns)
    for warning in table.warnings:
        logger.warning(warning)
    return encode_rows(table, name, columns, labels)


def encode_rows(
    table: Table,
    source: str,
    columns: Mapping[str, LabelColumns],
    labels: Mapping[str, LabelSpace],
    *,
    in_training: bool = False,
) -> DataSplit:
    """Turn the labels of a source's rows into targets.

    Args:
        in_training: whether the labels are still to be learnt, so that settings may say what they are.

    Raises:
        DataError: names the rows whose label was not met in training, or is of another kind.
    """
    problems, count, unseen = list[str](), 0, list[str]()
    for task in columns:
        if (read_as := table.spaces.get(task)) not in (None, type(labels[task])):
            raise DataError(
                f"{table.locations[0]}: the labels of task {task} are {describe_spaces((read_as,))} here, but "
                f"{describe_spaces((type(labels[task]),))} in the training rows"
            )
        first, of_task = find_unknown(table.labels[task], labels[task], SHOWN - len(problems))
        problems += [_unseen(table.locations[row], task, name, columns, labels) for row, name in first]
        count += of_task
        unseen += [task] if of_task else []
    if unseen:
        hints = [
            f"to have classes without a training row, name all in tasks.{task}.labels.order"
            for task in unseen
            if in_training
        ]
        raise DataError("\n".join([*summarize(problems, count), *hints]))
    targets = {task: encode(table.labels[task], labels[task]) for task in columns}
    labelled = {task: table.labels[task].labelled for task in columns}
    return DataSplit(table.texts, targets, labelled, {source: len(table.texts)})


def _join(parts: Mapping[str, DataSplit], labels: Mapping[str, LabelSpace]) -> DataSplit:
    """Put the rows of several sources after one another. Those of other sources have no label of a task."""
    (first, *others) = parts.values()
    if not others and first.targets.keys() == labels.keys():
        return first
    sizes = {source: len(part.texts) for source, part in parts.items()}
    count = sum(sizes.values())
    ends = np.cumsum(list(sizes.values())).tolist()
    rows_of = {source: slice(end - size, end) for (source, size), end in zip(sizes.items(), ends, strict=True)}
    targets, labelled = dict[str, NDArray[Any]](), dict[str, NDArray[np.bool_]]()
    for task, space in labels.items():
        source = next((source for source, part in parts.items() if task in part.targets), None)
        found = parts[source].targets[task] if source else no_targets(0, space)
        targets[task], labelled[task] = no_targets(count, space, found.shape[-1]), mapped.zeros(count, np.bool_)
        if source:
            targets[task][rows_of[source]] = found
            labelled[task][rows_of[source]] = parts[source].labelled[task]
    texts = Texts.join([cast("Texts", part.texts) for part in parts.values()])
    return DataSplit(texts, targets, labelled, sizes)


def _unseen(
    location: str, task: str, label: str, columns: Mapping[str, LabelColumns], labels: Mapping[str, LabelSpace]
) -> str:
    names = labels[task].names
    few = len(names) <= 6
    known = enumerate_names(names) if few else f"{len(names):,} other classes{did_you_mean(label, names)}"
    return (
        f"{location}: {', '.join(columns[task].names)}: label {quote(label)} of task {task} does not occur in the "
        f"training rows, which have {known}"
    )


def _divide(table: Table, split: Split) -> dict[SplitName, Table]:
    divided = divide(len(table.texts), split, table.strata.codes if table.strata else None)
    return {name: table.take(_as_slice(rows)) for name, rows in divided.items()}


def _as_slice(rows: NDArray[np.int64]) -> Rows:
    """Return ascending row numbers as a slice where they follow one another."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    return slice(start, stop) if stop - start == len(rows) else rows


def _without_labels(dataset: Dataset) -> list[str]:
    """Say which tasks cannot be measured on a split that others are measured on."""
    return [
        f"task {task} has no label in the {len(rows.texts):,} {split} rows, so nothing is measured of it there"
        + (", and validation/loss is that of the other tasks" if split == "validation" else "")
        for split, rows in dataset.splits.items()
        for task, count in rows.labelled_counts.items()
        if not count
    ]
