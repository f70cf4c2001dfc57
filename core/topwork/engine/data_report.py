"""What the rows of an experiment are like: how many, how long, how balanced, and what about them may mislead."""

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topwork.data.dataset import Dataset, DataSplit
from topwork.data.text_digests import count_distinct, digests_of, first_rows
from topwork.data.texts import Text
from topwork.engine.encoding.corpus import Corpus
from topwork.experiment.source import SplitName
from topwork.interfaces.labels import NO_LABEL, Classes, LabelSet, LabelSpace, Numbers, WordLabels

#: Texts with conflicting labels that are shown of each task.
MAX_CONFLICTS = 5


@dataclass(frozen=True)
class SourceReport:
    """The rows that a source has in a split.

    Attributes:
        rows: how many.
        distinct: how many texts differ.
        tokens_median, tokens_95, tokens_max: how long texts are, in tokens, after truncation; of pairs that are read
            apart, each of both.
        truncated: how many texts were truncated.
    """

    source: str
    split: SplitName
    rows: int
    distinct: int
    tokens_median: float
    tokens_95: float
    tokens_max: int
    truncated: int


@dataclass(frozen=True)
class TaskReport:
    """The labels of a task in a split.

    Attributes:
        rows: how many rows the task's source has there.
        labelled: how many of them have a label.
        items: how many labels they have: one each, or one for each word.
        labels: by name: how many rows, or words, have it; of shares of classes their mean; of numbers mean, standard
            deviation, least and greatest.
    """

    task: str
    source: str
    split: SplitName
    rows: int
    labelled: int
    items: int
    labels: dict[str, Any]


@dataclass(frozen=True)
class Conflict:
    """A text that occurs several times in a source, with different labels.

    Attributes:
        labels: each of them, with how many rows have it.
    """

    task: str
    text: Text
    labels: dict[str, int]


@dataclass(frozen=True)
class DataReport:
    """What the rows of an experiment are like.

    Attributes:
        conflicting: for each task, how many texts have different labels.
        conflicts: some of them.
        warnings: what else the researcher should know, with counts.
    """

    sources: tuple[SourceReport, ...]
    tasks: tuple[TaskReport, ...]
    conflicting: dict[str, int]
    conflicts: tuple[Conflict, ...]
    warnings: tuple[str, ...]

    def dump(self) -> dict[str, Any]:
        """Return this as JSON values."""
        return asdict(self)


def describe_data(tasks_of: Mapping[str, Iterable[str]], dataset: Dataset, corpus: Corpus) -> DataReport:
    """Describe the rows of an experiment.

    Args:
        tasks_of: the tasks that read each source.
    """
    sources, tasks = [], []
    for split, rows in dataset.splits.items():
        for source, of_source in _rows_by_source(rows):
            sources.append(_describe_source(source, split, of_source, rows, corpus))
            tasks += [
                _describe_task(task, source, split, of_source, rows, dataset.labels[task]) for task in tasks_of[source]
            ]
    conflicts = {task: find_conflicts(task, dataset) for task in dataset.labels}
    return DataReport(
        sources=tuple(sources),
        tasks=tuple(tasks),
        conflicting={task: count for task, (count, _) in conflicts.items()},
        conflicts=tuple(one for _, found in conflicts.values() for one in found),
        warnings=tuple(dataset.warnings),
    )


def find_conflicts(task: str, dataset: Dataset) -> tuple[int, list[Conflict]]:
    """Return how many texts of all splits have different labels of a task, and some, those with most rows first."""
    rows = _LabelledRows(task, dataset)
    count, most = 0, list[tuple[int, int, Counter[str]]]()
    for row, labels in rows.labels_of_equal_texts():
        if len(labels) > 1:
            count += 1
            heapq.heappush(most, (labels.total(), -row, labels))
            if len(most) > MAX_CONFLICTS:
                heapq.heappop(most)
    most.sort(reverse=True)
    return count, [Conflict(task, rows.text(-number), dict(labels.most_common())) for _, number, labels in most]


class _LabelledRows:
    """The rows of all splits that have a label of a task, one split after another."""

    def __init__(self, task: str, dataset: Dataset) -> None:
        self.space = dataset.labels[task]
        self.parts = [rows.of_task(task) for rows in dataset.splits.values()]
        self.ends = [*accumulate(len(texts) for texts, _ in self.parts)]

    def labels_of_equal_texts(self) -> Iterator[tuple[int, Counter[str]]]:
        """Yield, for each text that occurs several times, its first row and how many rows have which label."""
        first = first_rows(digests_of(texts for texts, _ in self.parts))
        rows = np.flatnonzero(np.bincount(first)[first] > 1) if len(first) else first
        rows = rows[first[rows].argsort(kind="stable")]
        for text, group in groupby(map(int, rows), key=lambda row: int(first[row])):
            yield text, Counter(map(self._label, group))

    def text(self, row: int) -> Text:
        part, number = self._place(row)
        return self.parts[part][0][number]

    def _label(self, row: int) -> str:
        part, number = self._place(row)
        return _name_of(self.parts[part][1][number], self.space)

    def _place(self, row: int) -> tuple[int, int]:
        part = bisect_right(self.ends, row)
        return part, row - self.ends[part]  # counted from the end of the part


def _rows_by_source(rows: DataSplit) -> Iterator[tuple[str, slice]]:
    start = 0
    for source, size in rows.source_sizes.items():
        yield source, slice(start, start + size)
        start += size


def _describe_source(source: str, split: SplitName, of_source: slice, rows: DataSplit, corpus: Corpus) -> SourceReport:
    texts = rows.texts[of_source]
    text_ids, truncated = corpus.text_ids[split][of_source], corpus.truncated[split][of_source]
    lengths = corpus.text_lengths[text_ids[text_ids >= 0]].double()
    middle, high = lengths.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist() if len(lengths) else (0, 0)
    return SourceReport(
        source=source,
        split=split,
        rows=len(texts),
        distinct=count_distinct(first_rows(digests_of([texts])), len(texts)),
        tokens_median=middle,
        tokens_95=high,
        tokens_max=int(lengths.max()) if len(lengths) else 0,
        truncated=int(truncated.sum()),
    )


def _describe_task(
    task: str, source: str, split: SplitName, of_source: slice, rows: DataSplit, labels: LabelSpace
) -> TaskReport:
    labelled = rows.labelled[task][of_source]
    targets = rows.targets[task][of_source][labelled]
    items = int((targets != NO_LABEL).sum()) if isinstance(labels, WordLabels) else len(targets)
    return TaskReport(task, source, split, len(labelled), len(targets), items, _describe_labels(targets, labels))


def _describe_labels(targets: NDArray[Any], labels: LabelSpace) -> dict[str, Any]:
    """Describe the targets (N, ...) of the rows that have a label."""
    if not len(targets):
        return {}
    if isinstance(labels, Classes | WordLabels):
        counts = np.bincount(targets[targets != NO_LABEL], minlength=len(labels.names))
        return dict(zip(labels.names, counts.tolist(), strict=True))
    if isinstance(labels, Numbers):
        measured = np.stack([targets.mean(0), targets.std(0), targets.min(0), targets.max(0)], axis=1).tolist()
        names = ("mean", "sd", "min", "max")
        return {
            column: dict(zip(names, values, strict=True)) for column, values in zip(labels.names, measured, strict=True)
        }
    if isinstance(labels, LabelSet):
        return dict(zip(labels.names, targets.sum(0).astype(int).tolist(), strict=True))
    return dict(zip(labels.names, targets.mean(0).tolist(), strict=True))


def _name_of(target: NDArray[Any] | np.int64, labels: LabelSpace) -> str:
    """Write one row's target as a label."""
    if isinstance(labels, Classes):
        return labels.names[int(target)]
    values = np.asarray(target).tolist()
    if isinstance(labels, WordLabels):
        words = max(place for place, number in enumerate(values, 1) if number != NO_LABEL)
        return " ".join("-" if number == NO_LABEL else labels.names[number] for number in values[:words])
    if isinstance(labels, Numbers):
        return ", ".join(f"{number:g}" for number in values)
    shares = {name: share for name, share in zip(labels.names, values, strict=True) if share}
    return ", ".join(name if share == 1 else f"{name} {share:.2g}" for name, share in shares.items()) or "none"
