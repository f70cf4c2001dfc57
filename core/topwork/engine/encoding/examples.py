"""Rows that are ready to train on: what the cut keeps of each, and its targets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.engine.encoding.ragged import Ragged
from topwork.interfaces.head import Reading
from topwork.interfaces.labels import NO_LABEL, are_of_words


@runtime_checkable
class Activations(Protocol):
    """What the loop trains from."""

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for the texts ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""


@dataclass(frozen=True)
class Batch:
    """The texts that heads read of some rows.

    Attributes:
        hidden: (U, T, ...), what the cut keeps of U texts, in float32.
        mask: (U, T).
        inputs: for each task of which some rows have a label, what its head reads: the numbers of texts, (L,), or
            (L, 2) for a head that reads two apart; or the places of words, (L, S), see ``MultiTaskModel.forward``.
        windows: where texts are divided, how many of the U each text has.
    """

    hidden: Shaped[Tensor, "U T *columns"]
    mask: Bool[Tensor, "U T"]
    inputs: dict[str, Int[Tensor, "_L ..."]]
    windows: Int[Tensor, " texts"] | None = None


@dataclass(frozen=True)
class Examples:
    """N rows of one split, ready to train on.

    Attributes:
        activations: what the cut keeps of each distinct text.
        text_ids: (N, 1) or (N, 3) int64, which of them each row has; see ``Corpus``.
        targets: for each task, (N, ...) as its label space says; anything where a row has no label of it.
        labelled: for each task, (N,) bool, which rows have a label of it.
        reads: what the head of each task reads.
        source_sizes: how many rows each source has, in their order; N in all.
        word_places: of each distinct text, the places of its words among what the cut keeps of it.
        windows: of each text, which of the distinct texts it is divided into; see ``Corpus``.
    """

    activations: Activations
    word_places: Ragged
    text_ids: Int[Tensor, "N _"]
    targets: dict[str, Shaped[Tensor, "N ..."]]
    labelled: dict[str, Bool[Tensor, " N"]]
    reads: dict[str, Reading]
    source_sizes: tuple[int, ...]
    windows: Ragged | None = None

    @property
    def count(self) -> int:
        """N."""
        return sum(self.source_sizes)

    def batch(self, rows: Int[Tensor, " B"]) -> Batch:
        """Return the texts of ``rows`` (B,), and which of them each head reads."""
        text_ids = self.text_ids[rows]
        there = text_ids >= 0
        numbers = (there.flatten().cumsum(0) - 1).view_as(text_ids)
        texts = text_ids[there]
        windows = self.windows.take(texts) if self.windows else None
        hidden, mask = self.activations.batch(texts if windows is None else windows.values)
        inputs = {}
        for task, found in self.labelled_rows(rows).items():
            if self.reads[task] == "words":
                places, is_word = self.word_places.batch(text_ids[found, 0])
                inputs[task] = (numbers[found, :1] * mask.shape[1] + places).masked_fill(~is_word, -1)
            else:
                inputs[task] = numbers[found, 1:] if self.reads[task] == "two pooled" else numbers[found, 0]
        hidden = hidden.float() if hidden.is_floating_point() else hidden
        return Batch(hidden, mask, inputs, None if windows is None else windows.lengths)

    def labelled_rows(self, rows: Int[Tensor, " B"]) -> dict[str, Int[Tensor, " _L"]]:
        """Return, for each task of which some of ``rows`` (B,) have a label, the positions in ``rows`` of those."""
        every = torch.arange(len(rows))
        positions = {
            task: every if task in self._complete else labelled[rows].nonzero()[:, 0]
            for task, labelled in self.labelled.items()
        }
        return {task: found for task, found in positions.items() if len(found)}

    def of_tasks(self, tasks: Collection[str]) -> "Examples":
        """Return the same rows with labels of some tasks only."""
        if self.labelled.keys() <= set(tasks):
            return self
        return replace(
            self,
            targets={task: targets for task, targets in self.targets.items() if task in tasks},
            labelled={task: labelled for task, labelled in self.labelled.items() if task in tasks},
        )

    def select(self, tasks: Collection[str]) -> "Examples":
        """Return the rows that have a label of some tasks, with labels of these only."""
        some = self.of_tasks(tasks)
        if some._all_labelled:
            return some
        rows = some._has_label.nonzero()[:, 0]
        sizes = [int(part.sum()) for part in some._has_label.split(list(self.source_sizes))]
        return replace(
            some,
            text_ids=self.text_ids[rows],
            targets={task: targets[rows] for task, targets in some.targets.items()},
            labelled={task: labelled[rows] for task, labelled in some.labelled.items()},
            source_sizes=tuple(sizes),
        )

    def with_labels(self, rows: Int[Tensor, " B"]) -> Int[Tensor, " _L"]:
        """Return those of ``rows`` (B,) that have a label of some task."""
        return rows if self._all_labelled else rows[self._has_label[rows]]

    @cached_property
    def _has_label(self) -> Bool[Tensor, " N"]:
        """Whether a row has a label of some task."""
        none = torch.zeros(self.count, dtype=torch.bool)
        return torch.stack([none, *self.labelled.values()]).any(dim=0)

    @cached_property
    def _all_labelled(self) -> bool:
        return bool(self._has_label.all())

    @cached_property
    def _complete(self) -> frozenset[str]:
        """The tasks of which every row has a label."""
        return frozenset(task for task, labelled in self.labelled.items() if labelled.all())

    def batch_targets(self, rows: Int[Tensor, " B"]) -> dict[str, Shaped[Tensor, "_L ..."]]:
        """Return, for each task of which some of ``rows`` (B,) have a label, the targets of those."""
        return {task: self._targets(task, rows[found]) for task, found in self.labelled_rows(rows).items()}

    def labelled_targets(self) -> dict[str, Shaped[Tensor, "_L ..."]]:
        """Return the targets of all rows that have a label of a task, for each task of which some have."""
        return {
            task: self._targets(task, labelled.nonzero()[:, 0])
            for task, labelled in self.labelled.items()
            if labelled.any()
        }

    def _targets(self, task: str, rows: Int[Tensor, " L"]) -> Shaped[Tensor, "L ..."]:
        """Return the targets of ``rows`` (L,); of words, of those that are read: (L, S)."""
        targets = self.targets[task][rows]
        if not are_of_words(targets):
            return targets
        counts = self.word_places.lengths_of(self.text_ids[rows, 0])
        read = torch.arange(int(counts.max())) < counts[:, None]
        return targets[:, : read.shape[1]].masked_fill(~read, NO_LABEL)


def make_examples(
    activations: Activations,
    word_places: Ragged,
    text_ids: Int[Tensor, "N _"],
    rows: DataSplit,
    reads: Mapping[str, Reading],
    windows: Ragged | None = None,
) -> Examples:
    """Give each of N rows the activations of its texts.

    Args:
        activations: of the distinct texts.
        word_places: of each, the places of its words among what the cut keeps of it.
        text_ids: (N, 1) or (N, 3) int64, which of them each row has.
        reads: what the head of each task reads.
        windows: of each text, which of the distinct texts it is divided into; None where none is.
    """
    return Examples(
        activations,
        word_places,
        text_ids,
        targets={task: torch.from_numpy(targets) for task, targets in rows.targets.items()},
        labelled={task: torch.from_numpy(labelled) for task, labelled in rows.labelled.items()},
        reads={task: reads[task] for task in rows.labelled},
        source_sizes=tuple(rows.source_sizes.values()),
        windows=windows,
    )
