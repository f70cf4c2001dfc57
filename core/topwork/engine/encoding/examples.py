"""Rows that are ready to train on: what the cut keeps of each, and its targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor


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
        targets: for each task, (N,).
        count: N.
    """

    activations: Activations
    targets: dict[str, Shaped[Tensor, " N"]]
    count: int


def make_examples(
    activations: Activations, text_ids: Int[Tensor, " N"], targets: Mapping[str, NDArray[np.int64]]
) -> Examples:
    """Give each of N rows the activation of its text.

    Args:
        activations: of the distinct texts.
        text_ids: (N,) int64, which of them each row has.
        targets: for each task, (N,).
    """
    as_tensors = {task: torch.from_numpy(values) for task, values in targets.items()}
    return Examples(SharedActivations(activations, text_ids), as_tensors, len(text_ids))
