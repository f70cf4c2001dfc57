"""sha256 digests of many sequences, in one array."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from topwork.mapped import AT_ONCE, zeros

#: Bytes of a sha256 digest.
SIZE = 32


@dataclass(frozen=True, eq=False)
class Digests(Sequence[bytes]):
    """Digests of U sequences.

    Attributes:
        values: (U, 32) uint8.
    """

    values: NDArray[np.uint8]

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> "Digests":
        """Put digests together."""
        return cls(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]  # a slice is ``take``
        digest: bytes = self.values[number].tobytes()
        return digest

    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))

    def take(self, rows: NDArray[np.int64]) -> "Digests":
        """Return some of them, in that order."""
        return Digests(self.values[rows])

    def find(self, held: "Digests") -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the numbers of those that are among others, and their places there, some at a time.

        Args:
            held: the others, each there once.
        """
        for start in range(0, len(held), AT_ONCE):
            numbers, places = self._find(Digests(held.values[start : start + AT_ONCE]))
            yield numbers, start + places

    def _find(self, held: "Digests") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order, beginnings = self._sorted
        wanted = held.beginnings
        first, last = (np.searchsorted(beginnings, wanted, side) for side in ("left", "right"))
        counts = last - first
        places = np.repeat(np.arange(len(held)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = order[np.repeat(first, counts) + within]
        equal = (self.values[numbers] == held.values[places]).all(axis=1)  # those that begin alike may differ
        return numbers[equal], places[equal]

    @property
    def beginnings(self) -> NDArray[np.uint64]:
        """The first eight bytes of each, (U,), as numbers."""
        return np.ascontiguousarray(self.values[:, :8]).view(np.uint64)[:, 0]

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The order in which they rise by their beginnings, and these in that order."""
        beginnings = self.beginnings
        order, in_order = zeros(len(self), np.int64), zeros(len(self), np.uint64)
        order[:] = beginnings.argsort(kind="stable")
        return order, np.take(beginnings, order, out=in_order, mode="clip")
