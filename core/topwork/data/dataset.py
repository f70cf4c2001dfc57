"""From a source and its label columns to texts and targets, split by split."""

import itertools
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.data.label_reader import describe_spaces
from topwork.data.label_spaces import encode, find_space, unknown_names
from topwork.data.labels import describe_similar
from topwork.data.splits import divide
from topwork.data.table import SHOWN, Table, read_table, summarize
from topwork.data.texts import Text
from topwork.errors import DataError, did_you_mean, enumerate_names, quote
from topwork.experiment.label_format import LabelColumns
from topwork.experiment.source import SPLITS, Source, Split, SplitName
from topwork.interfaces.labels import NO_LABEL, Classes, LabelSpace, Numbers, WordLabels

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

    texts: list[Text]
    targets: dict[str, NDArray[Any]]
    labelled: dict[str, NDArray[np.bool_]]
    source_sizes: dict[str, int]

    def of_task(self, task: str) -> tuple[list[Text], NDArray[Any]]:
        """Return the texts that have a label of a task, and its targets."""
        labelled = self.labelled[task]
        return list(itertools.compress(self.texts, labelled)), self.targets[task][labelled]

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
            warnings += describe_similar(task, _located_names(train, task), of_task.format)
            unused = of_task.format.rename.keys() - of_source.renamed(task)
            if unused:
                missing = enumerate_names(sorted(unused))
                warnings.append(f"task {task} has no label {missing}, which labels.rename gives another name")
    splits = {split: _join(parts[split], labels) for split in SPLITS if split in parts}
    digests = {path: digest for of_source in found.values() for path, digest in of_source.digests.items()}
    warnings += _overlaps({name: of_source.tables for name, of_source in found.items()})
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
    unseen: list[tuple[str, str, str]] = []
    for task in columns:
        if (read_as := table.spaces.get(task)) not in (None, type(labels[task])):
            raise DataError(
                f"{table.locations[0]}: the labels of task {task} are {describe_spaces((read_as,))} here, but "
                f"{describe_spaces((type(labels[task]),))} in the training rows"
            )
        pairs = zip(table.labels[task], table.locations, strict=True)
        unseen += [(where, task, name) for label, where in pairs for name in unknown_names(label, labels[task])]
    if unseen:
        problems = [_unseen(*one, columns, labels) for one in unseen[:SHOWN]]
        tasks = dict.fromkeys(task for _, task, _ in unseen)
        hints = [
            f"to have classes without a training row, name all in tasks.{task}.labels.order"
            for task in tasks
            if in_training
        ]
        raise DataError("\n".join([*summarize(problems, len(unseen)), *hints]))
    targets = {task: encode(table.labels[task], labels[task]) for task in columns}
    labelled = {task: np.array([label is not None for label in table.labels[task]], np.bool_) for task in columns}
    return DataSplit(table.texts, targets, labelled, {source: len(table.texts)})


def _join(parts: Mapping[str, DataSplit], labels: Mapping[str, LabelSpace]) -> DataSplit:
    """Put the rows of several sources after one another. Those of other sources have no label of a task."""
    sizes = {source: len(part.texts) for source, part in parts.items()}
    count = sum(sizes.values())
    targets = {task: encode([None] * count, space) for task, space in labels.items()}
    labelled = {task: np.zeros(count, np.bool_) for task in labels}
    start = 0
    for part in parts.values():
        rows = slice(start, start + len(part.texts))
        for task, found in part.targets.items():
            nothing = NO_LABEL if isinstance(labels[task], WordLabels) else 0
            targets[task] = np.full((count, *found.shape[1:]), nothing, found.dtype)
            targets[task][rows], labelled[task][rows] = found, part.labelled[task]
        start = rows.stop
    return DataSplit([text for part in parts.values() for text in part.texts], targets, labelled, sizes)


def _located_names(table: Table, task: str) -> list[tuple[str, str]]:
    """Return the names in the labels of a task, with where each stands."""
    pairs = list(zip(table.labels[task], table.locations, strict=True))
    if table.spaces.get(task) is Numbers:
        return []
    return [
        (str(name), location)
        for label, location in pairs
        if label is not None
        for name in ([label] if isinstance(label, str) else label)
        if name is not None
    ]


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
    divided = divide(len(table.texts), split, table.strata if split.by else None)
    return {name: _take(table, rows) for name, rows in divided.items()}


def _take(table: Table, rows: NDArray[np.int64]) -> Table:
    labels = {task: [values[row] for row in rows] for task, values in table.labels.items()}
    texts, locations = [table.texts[row] for row in rows], [table.locations[row] for row in rows]
    return Table(texts, labels, table.spaces, table.renamed, locations=locations)


def _without_labels(dataset: Dataset) -> list[str]:
    """Say which tasks cannot be measured on a split that others are measured on."""
    return [
        f"task {task} has no label in the {len(rows.texts):,} {split} rows, so nothing is measured of it there"
        + (", and validation/loss is that of the other tasks" if split == "validation" else "")
        for split, rows in dataset.splits.items()
        for task, count in rows.labelled_counts.items()
        if not count
    ]


def _overlaps(sources: Mapping[str, Mapping[SplitName, Table]]) -> list[str]:
    """Say how many texts of a later split also occur in an earlier one, be it of another source."""
    warnings = []
    seen: dict[Text, tuple[SplitName, str, str]] = {}
    of = {source: f" of {source}" if len(sources) > 1 else "" for source in sources}
    for split, source in itertools.product(SPLITS, sources):
        if split not in sources[source]:
            continue
        table = sources[source][split]
        common: dict[str, list[str]] = {}
        for location, text in zip(table.locations, table.texts, strict=True):
            first_split, first_source, first_location = seen.setdefault(text, (split, source, location))
            if first_split != split:
                earlier = f"{first_split}{of[first_source]}"
                common.setdefault(earlier, []).append(f"{location}, the same as {first_location}")
        warnings += [
            f"{len(locations)} of {len(table.texts)} {split} texts{of[source]} also occur in {earlier}, which flatters "
            f"the results; the first is {locations[0]}"
            for earlier, locations in common.items()
        ]
    for source, tables in sources.items():
        texts = tables["train"].texts
        if repeated := len(texts) - len(set(texts)):
            warnings.append(f"{repeated} of {len(texts)} training texts{of[source]} repeat an earlier one")
    return warnings
