"""Sequences of different lengths, without padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """N sequences of different lengths, end to end, without padding.

    Attributes:
        values: (total length, ...).
        offsets: (N + 1,) int64; sequence i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: Shaped[Tensor, "total ..."]
    offsets: Int[Tensor, " bounds"]

    @property
    def lengths(self) -> Int[Tensor, " N"]:
        """How long each sequence is."""
        return self.offsets.diff()

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return the sequences ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        positions = torch.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        index = (starts[:, None] + positions).masked_fill(~mask, 0)
        return self.values[index], mask

    def take(self, rows: Int[Tensor, " B"]) -> "Ragged":
        """Return the sequences ``rows`` (B,), in that order."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = offsets_of(lengths)
        index = torch.arange(int(offsets[-1])) + (starts - offsets[:-1]).repeat_interleave(lengths)
        return Ragged(self.values[index], offsets)


def offsets_of(lengths: Int[Tensor, " N"]) -> Int[Tensor, " N+1"]:
    """Turn lengths (N,) into offsets (N + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def sequences_of(token_ids: Ragged) -> Iterator[bytes]:
    """Yield the ids of each sequence as the bytes of little-endian int64."""
    values, bounds = token_ids.values.numpy().astype("<i8"), token_ids.offsets.tolist()
    return (values[start:end].tobytes() for start, end in pairwise(bounds))
