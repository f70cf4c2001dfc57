"""Where rows are."""

from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.data.row_values import PART, Rows, RowValues, some_of
from topwork.mapped import ArrayWriter


class Locations(RowValues[str]):
    """``file:line`` of N rows.

    Attributes:
        files: that rows are of.
        numbers: (N, 2) int64, a row's file among these, and its line.
    """

    def __init__(self, files: tuple[Path, ...], numbers: NDArray[np.int64]) -> None:
        self.files = files
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Rows) -> "Locations":
        """Return those of some rows."""
        return Locations(self.files, some_of(self.numbers, rows))

    def read(self) -> list[str]:
        """Make all, which should be few."""
        return [f"{self.files[file]}:{line}" for file, line in self.numbers.tolist()]


class LocationsWriter:
    """Notes where rows are, as they come, file by file."""

    def __init__(self) -> None:
        self.count = 0
        self._files: list[Path] = []
        self._numbers = ArrayWriter(np.int64, (2,))
        self._file: Path | None = None  # the last
        self._pending = array("q")  # lines of it

    def append(self, file: Path, line: int) -> None:
        """Add a row.

        Raises:
            StorageError: the disk has no room for it.
        """
        if file is not self._file:
            self._flush()
            self._files.append(file)
            self._file = file
        self.count += 1
        self._pending.append(line)
        if len(self._pending) == PART:
            self._flush()

    def finish(self) -> Locations:
        """Return all rows. Nothing can be added any more."""
        self._flush()
        return Locations(tuple(self._files), self._numbers.finish())

    def _flush(self) -> None:
        lines = np.array(self._pending, np.int64)
        self._numbers.append(np.stack([np.full(len(lines), len(self._files) - 1), lines], axis=1))
        self._pending = array("q")
