"""Sequences of different lengths, without padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from topwork.mapped import AT_ONCE, zeros


@dataclass(frozen=True)
class Ragged:
    """N sequences of different lengths, end to end, without padding.

    Attributes:
        values: (total length, ...).
        offsets: (N + 1,) int64; sequence i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: Shaped[Tensor, "total ..."]
    offsets: Int[Tensor, " bounds"]

    def __len__(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[Tensor, " N"]:
        """How long each sequence is."""
        lengths = torch.from_numpy(zeros(len(self), np.int64))
        return torch.sub(self.offsets[1:], self.offsets[:-1], out=lengths)

    def lengths_of(self, rows: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return how long the sequences ``rows`` (B,) are."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return the sequences ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        starts, lengths = self.offsets[rows], self.lengths_of(rows)
        positions = torch.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        index = (starts[:, None] + positions).masked_fill(~mask, 0)
        return self.values[index], mask

    def take(self, rows: Int[Tensor, " B"]) -> "Ragged":
        """Return the sequences ``rows`` (B,), in that order."""
        offsets = offsets_of(self.lengths_of(rows))
        if not len(self.values):
            return Ragged(self.values, offsets)
        values = self._empty(int(offsets[-1]))
        for first in range(0, len(rows), AT_ONCE):
            some, bounds = rows[first : first + AT_ONCE], offsets[first : first + AT_ONCE + 1]
            starts = self.offsets[some] - (bounds[:-1] - bounds[0])
            index = torch.arange(int(bounds[-1] - bounds[0])) + starts.repeat_interleave(bounds.diff())
            torch.index_select(self.values, 0, index, out=values[int(bounds[0]) : int(bounds[-1])])
        return Ragged(values, offsets)

    def _empty(self, count: int) -> Shaped[Tensor, "count ..."]:
        """Return a tensor for so many values; token ids, of which there may be more than memory holds, in a file."""
        if self.values.dtype == torch.int64 and self.values.ndim == 1:
            return torch.from_numpy(zeros(count, np.int64))
        return self.values.new_empty(count, *self.values.shape[1:])


def no_sequences(count: int) -> Ragged:
    """Return so many sequences of nothing."""
    return Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64).expand(count + 1))


def offsets_of(lengths: Int[Tensor, " N"]) -> Int[Tensor, " N+1"]:
    """Turn lengths (N,) into offsets (N + 1,)."""
    offsets = torch.from_numpy(zeros(len(lengths) + 1, np.int64))
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def sequences_of(token_ids: Ragged) -> Iterator[bytes]:
    """Yield the ids of each sequence as the bytes of little-endian int64."""
    values = token_ids.values.numpy()
    for first in range(0, len(token_ids), AT_ONCE):
        bounds = token_ids.offsets[first : first + AT_ONCE + 1].tolist()
        content = values[bounds[0] : bounds[-1]].astype("<i8").tobytes()
        places = [8 * (bound - bounds[0]) for bound in bounds]
        yield from (content[start:end] for start, end in pairwise(places))
