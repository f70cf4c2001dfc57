"""The labels of rows, as numbers."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from topwork import mapped
from topwork.data.row_values import PART, Rows, RowValues, some_of
from topwork.interfaces.labels import Classes, Distribution, LabelSpace, Numbers
from topwork.mapped import ArrayWriter

#: A row's label as it was read: the name of a class; the names of some labels, or of the class of each word, None where
#: a word has none; numbers, one for each column; or shares of classes by their names.
RowLabel = str | tuple[str | None, ...] | tuple[float, ...] | dict[str, float]

#: The code of a word that has no label.
NO_NAME = -1


@dataclass(frozen=True)
class Entries:
    """What the labels of some rows consist of: names, numbers, or both.

    Attributes:
        rows: (E,), the row of each entry.
        places: (E,), which of its row's entries it is.
        codes: (E,) int32, its name's number, or ``NO_NAME``; empty where there are numbers alone.
        numbers: (E,) float64; empty where there are names alone.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    codes: NDArray[np.int32]
    numbers: NDArray[np.float64]


class LabelColumn(RowValues[RowLabel | None]):
    """The labels of N rows; None where a row has none.

    Attributes:
        space: what they were read as; None where no row has one.
        names: all names in them, and maybe others, each once.
        starts, lengths: (N,), where a label's entries begin in ``codes`` or ``numbers`` or both, and how many it has;
            -1 where there is no label.
        codes: the numbers of names among ``names``, or ``NO_NAME``.
        numbers: numbers, or shares of classes.
    """

    def __init__(
        self,
        space: type[LabelSpace] | None,
        names: tuple[str, ...],
        places: tuple[NDArray[np.int64], NDArray[np.int32]],
        codes: NDArray[np.int32],
        numbers: NDArray[np.float64],
    ) -> None:
        self.space = space
        self.names = names
        self.starts, self.lengths = places
        self.codes = codes
        self.numbers = numbers

    @classmethod
    def of(cls, labels: Iterable[RowLabel | None], space: type[LabelSpace] | None) -> "LabelColumn":
        """Store some labels."""
        writer = LabelsWriter()
        for label in labels:
            writer.append(label)
        return writer.finish(space)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,), whether each row has a label."""
        found: NDArray[np.bool_] = np.greater_equal(self.lengths, 0, out=mapped.zeros(len(self), np.bool_))
        return found

    def take(self, rows: Rows) -> "LabelColumn":
        """Return the labels of some rows; nothing but their places is copied."""
        places = some_of(self.starts, rows), some_of(self.lengths, rows)
        return LabelColumn(self.space, self.names, places, self.codes, self.numbers)

    def read(self) -> list[RowLabel | None]:
        """Make all, which should be few."""
        return [
            None if length < 0 else self._read_one(start, start + length)
            for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        ]

    def _read_one(self, start: int, stop: int) -> RowLabel:
        numbers = self.numbers[start:stop].tolist()
        if self.space is Numbers:
            return tuple(numbers)
        names = [None if code == NO_NAME else self.names[code] for code in self.codes[start:stop].tolist()]
        if self.space is Distribution:
            return dict(zip(cast("list[str]", names), numbers, strict=True))
        return cast("str", names[0]) if self.space is Classes else tuple(names)

    def entries(self) -> Iterator[Entries]:
        """Go through what the labels consist of, some rows at a time."""
        for first in range(0, len(self), PART):
            lengths = np.maximum(self.lengths[first : first + PART], 0).astype(np.int64)
            rows = np.repeat(np.arange(len(lengths)), lengths)
            places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            found = self.starts[first : first + PART][rows] + places
            codes = self.codes[found] if len(self.codes) else self.codes
            yield Entries(first + rows, places, codes, self.numbers[found] if len(self.numbers) else self.numbers)

    def counts(self) -> dict[str, int]:
        """Return how often each name occurs, in the order in which they are first met."""
        counts: dict[int, int] = {}
        for entries in self.entries() if self.names else ():
            codes, first, count = np.unique(
                entries.codes[entries.codes != NO_NAME], return_index=True, return_counts=True
            )
            for number in first.argsort().tolist():
                code = int(codes[number])
                counts[code] = counts.get(code, 0) + int(count[number])
        return {self.names[code]: count for code, count in counts.items()}


class LabelsWriter:
    """Stores labels, as they come."""

    def __init__(self) -> None:
        self._codes_of: dict[str, int] = {}
        self._lengths, self._codes, self._numbers = array("i"), array("i"), array("d")  # what is pending
        self._written = ArrayWriter(np.int32), ArrayWriter(np.int32), ArrayWriter(np.float64)

    def append(self, label: RowLabel | None) -> None:
        """Add a row's label, of the same space as those before.

        Raises:
            StorageError: the disk has no room for it.
        """
        if label is None:
            self._lengths.append(-1)
        elif isinstance(label, str):
            self._lengths.append(1)
            self._codes.append(self._code_of(label))
        else:
            self._lengths.append(len(label))
            if isinstance(label, dict):
                self._numbers.extend(label.values())
            for part in label:
                if isinstance(part, float):
                    self._numbers.append(part)
                else:
                    self._codes.append(NO_NAME if part is None else self._code_of(part))
        if len(self._lengths) == PART or len(self._codes) > 100 * PART:
            self._flush()

    def finish(self, space: type[LabelSpace] | None) -> LabelColumn:
        """Return all labels, which are of ``space``. Nothing can be added any more."""
        self._flush()
        lengths, codes, numbers = (writer.finish() for writer in self._written)
        starts = mapped.zeros(len(lengths), np.int64)
        if len(starts):
            np.cumsum(np.maximum(lengths[:-1], 0), out=starts[1:])
        return LabelColumn(space, tuple(self._codes_of), (starts, lengths), codes, numbers)

    def _code_of(self, name: str) -> int:
        return self._codes_of.setdefault(name, len(self._codes_of))

    def _flush(self) -> None:
        for writer, part in zip(self._written, (self._lengths, self._codes, self._numbers), strict=True):
            writer.append(np.array(part, writer.dtype))
        self._lengths, self._codes, self._numbers = array("i"), array("i"), array("d")
