"""What a reader makes of a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: A row is columns to values.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RowError:
    """Why there is no row, and whether the rest of the file can be divided into rows."""

    message: str
    ends_file: bool = False


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, each with its line, and what a researcher should know about how it was read."""

    rows: Iterator[tuple[int, Row | RowError]]
    notes: tuple[str, ...] = ()
