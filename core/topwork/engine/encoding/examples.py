"""Rows that are ready to train on: what the cut keeps of each, and its targets."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from topwork.data.dataset import DataSplit


@runtime_checkable
class Activations(Protocol):
    """What the loop trains from."""

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""


@dataclass(frozen=True)
class SharedActivations:
    """Activations of N rows, of which those with equal texts share one.

    Attributes:
        distinct: the activations of the distinct texts.
        text_ids: (N,) int64, which of them each row has.
    """

    distinct: Activations
    text_ids: Int[Tensor, " N"]

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,) in float32, padded to (B, T, ...), and the mask (B, T)."""
        values, mask = self.distinct.batch(self.text_ids[rows])
        return values.float() if values.is_floating_point() else values, mask


@dataclass(frozen=True)
class Examples:
    """N rows of one split, ready to train on.

    Attributes:
        activations: what the cut keeps of each text.
        targets: for each task, (N, ...) as its label space says; anything where a row has no label of it.
        labelled: for each task, (N,) bool, which rows have a label of it.
        source_sizes: how many rows each source has, in their order; N in all.
    """

    activations: Activations
    targets: dict[str, Shaped[Tensor, "N ..."]]
    labelled: dict[str, Bool[Tensor, " N"]]
    source_sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """N."""
        return sum(self.source_sizes)

    def labelled_rows(self, rows: Int[Tensor, " B"]) -> dict[str, Int[Tensor, " _L"]]:
        """Return, for each task of which some of ``rows`` (B,) have a label, the positions in ``rows`` of those."""
        every = torch.arange(len(rows))
        positions = {
            task: every if task in self._complete else labelled[rows].nonzero()[:, 0]
            for task, labelled in self.labelled.items()
        }
        return {task: found for task, found in positions.items() if len(found)}

    @cached_property
    def _complete(self) -> frozenset[str]:
        """The tasks of which every row has a label."""
        return frozenset(task for task, labelled in self.labelled.items() if labelled.all())

    def labelled_targets(self) -> dict[str, Shaped[Tensor, "_L ..."]]:
        """Return the targets of the rows that have a label of a task, for each task of which some have."""
        return {task: self.targets[task][labelled] for task, labelled in self.labelled.items() if labelled.any()}


def make_examples(activations: Activations, text_ids: Int[Tensor, " N"], rows: DataSplit) -> Examples:
    """Give each of N rows the activation of its text.

    Args:
        activations: of the distinct texts.
        text_ids: (N,) int64, which of them each row has.
    """
    return Examples(
        SharedActivations(activations, text_ids),
        targets={task: torch.from_numpy(targets) for task, targets in rows.targets.items()},
        labelled={task: torch.from_numpy(labelled) for task, labelled in rows.labelled.items()},
        source_sizes=tuple(rows.source_sizes.values()),
    )
