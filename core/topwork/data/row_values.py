"""Values of rows, of which none is an object until it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from topwork import mapped

T = TypeVar("T", covariant=True)

#: Some rows: their numbers from 0, or a slice of all.
Rows = slice | NDArray[np.integer[Any]]

#: How many values are made at once where all are gone through.
PART = 1024


class RowValues(Sequence[T], ABC):
    """The values of N rows: a sequence that is equal to a list of the same values.

    Some rows of it are again such values; a slice is a view.
    """

    @abstractmethod
    def take(self, rows: Rows) -> Self:
        """Return the values of some rows, in the order in which they are given.

        Raises:
            IndexError: there is no such row.
        """

    @abstractmethod
    def read(self) -> list[T]:
        """Make all values, which should be few."""

    @overload
    def __getitem__(self, rows: int) -> T: ...
    @overload
    def __getitem__(self, rows: Rows) -> Self: ...
    def __getitem__(self, rows: int | Rows) -> T | Self:
        if isinstance(rows, slice | np.ndarray):
            return self.take(rows)
        row = range(len(self))[rows]
        return self.take(slice(row, row + 1)).read()[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), PART):
            yield from self.take(slice(start, start + PART)).read()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == same for one, same in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self):,} rows: {self.take(slice(10)).read()}"


def some_of(array: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Return some rows of an array (N, ...): a view where they are a slice.

    Raises:
        IndexError: there is no such row.
    """
    if isinstance(rows, slice):
        return array[rows]
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(array):
        raise IndexError(f"of {len(array)} rows, {rows.min()} to {rows.max()} are asked for")
    found = mapped.zeros((len(rows), *array.shape[1:]), array.dtype)
    return np.take(array, rows, axis=0, out=found, mode="clip")  # else numpy makes another copy
