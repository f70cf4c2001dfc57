"""Read CSV and TSV as its writers write it: the header decides what is not as the suffix says."""

import csv
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from topwork.data.decoding import OpenText
from topwork.data.rows import FileRows, Row, RowError
from topwork.errors import DataError, quote
from topwork.experiment.source import REST

#: What may separate columns, and what it is called.
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class _Dialect:
    """How rows are written.

    Attributes:
        delimiter: between fields.
        quoted: whether quotes enclose fields.
        spaced: whether a blank follows the delimiter.
        open_ended: whether rows may have more fields than there are columns.
        named_by: what names the columns.
    """

    delimiter: str
    quoted: bool = True
    spaced: bool = False
    open_ended: bool = False
    named_by: str = "the header"


#: The line that a record begins in, and its fields.
_Records = Iterator[tuple[int, list[str] | RowError]]


def read_delimited(
    text: OpenText, path: Path, *, delimiter: str, wanted: Collection[str], columns: Sequence[str] | None = None
) -> FileRows:
    """Read a file whose first line names the columns, or whose columns are named here.

    Args:
        delimiter: what the suffix promises. Where the header then lacks a wanted column, and has all with another
            delimiter, that is taken. Where it is a tab, quotes enclose fields if they are as a writer sets them.
        wanted: the columns that are asked for; others may have no name, or one name for several.
        columns: the names of the columns where no line of the file has them.

    Raises:
        DataError: there is no header, or a wanted column is there more than once.
    """
    if columns is not None:
        return _read_without_header(text, path, delimiter=delimiter, wanted=wanted, columns=columns)
    quoted, notes = _tsv_is_quoted(text, path, wanted) if delimiter == "\t" else (True, [])
    dialect, names, note = _find_columns(text, path, _Dialect(delimiter, quoted), wanted)
    for name in wanted:
        if (count := names.count(name)) > 1:
            raise DataError(f"{path}:1: {count} columns are named {name!r}; rename all but the one that is meant")
    records = _records(text, dialect)
    next(records)
    return FileRows(_rows(records, names, dialect), (*notes, *note))


def _read_without_header(
    text: OpenText, path: Path, *, delimiter: str, wanted: Collection[str], columns: Sequence[str]
) -> FileRows:
    """Read a file of rows alone. Where it has tabs, quotes are part of the text, as in files that people publish so."""
    names = [name for name in columns if name != REST]
    if absent := [name for name in wanted if name not in names]:
        raise DataError(f"{path}: columns of the source names {', '.join(names)}, but not {', '.join(absent)}")
    dialect = _Dialect(delimiter, quoted=delimiter != "\t", open_ended=REST in columns, named_by="`columns`")
    return FileRows(_rows(_records(text, dialect), names, dialect))


def _find_columns(
    text: OpenText, path: Path, dialect: _Dialect, wanted: Collection[str]
) -> tuple[_Dialect, list[str], list[str]]:
    """Find how the header is written; return that with the names of the columns, and what is to be said about it."""
    _, header = next(_records(text, dialect), (1, []))
    stripped: list[str] = []
    if not isinstance(header, RowError):
        if not header:
            with text("") as stream:
                what = "it" if stream.read(1) else "the file"
            raise DataError(f"{path}:1: the first line must name the columns, but {what} is empty")
        if set(wanted) <= set(header):
            return dialect, header, []
        stripped = [name.strip() for name in header]
        if set(wanted) <= set(stripped):
            spaced = dialect.delimiter != "\t" and len(header) > 1 and all(name[:1] == " " for name in header[1:])
            where = f"after {_DELIMITERS[dialect.delimiter]}" if spaced else "around the names of columns"
            found = replace(dialect, spaced=spaced)
            return found, stripped, [f"{path}: blanks {where} are left out"]
    for delimiter, name in _DELIMITERS.items():
        other = _Dialect(delimiter)
        _, fields = next(_records(text, other))
        if not isinstance(fields, RowError) and set(wanted) <= {field.strip() for field in fields}:
            found, columns, notes = _find_columns(text, path, other, wanted)
            return found, columns, [f"{path}: columns are separated by {name}, as the first line shows", *notes]
    if isinstance(header, RowError):
        raise DataError(f"{path}:1: {header.message}")
    return dialect, stripped, []


def _records(text: OpenText, dialect: _Dialect) -> _Records:
    """Divide a text into records; the first that cannot be read is the last."""
    csv.field_size_limit(sys.maxsize)  # a text may be longer than the default limit of 131,072 characters
    with text("") as stream:
        records = csv.reader(
            stream,
            delimiter=dialect.delimiter,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            skipinitialspace=dialect.spaced,
            strict=True,
        )
        line = 1
        try:
            for fields in records:
                yield line, fields
                line = records.line_num + 1
        except csv.Error as error:
            yield line, RowError(f"not valid CSV: {error}", ends_file=True)


def _rows(records: _Records, columns: Sequence[str], dialect: _Dialect) -> Iterator[tuple[int, Row | RowError]]:
    """Bring fields and columns together.

    Columns without a name behind all others come from spreadsheets. They must be empty, lest a comma inside a text
    shifts what stands behind it, and may be left out, as spreadsheets do from some line on.
    """
    counts = Counter(columns)
    places = {name: place for place, name in enumerate(columns) if name and counts[name] == 1}
    named = max((place for place, name in enumerate(columns) if name), default=-1) + 1
    one_each = list(places.values()) == list(range(len(columns)))
    for line, fields in records:
        if isinstance(fields, RowError):
            yield line, fields
        elif one_each and len(fields) == len(columns):
            yield line, dict(zip(columns, fields, strict=True))
        elif fields and dialect.open_ended and len(fields) >= len(columns):
            yield line, {name: fields[place] for name, place in places.items()}
        elif fields and not named <= len(fields) <= len(columns):
            message = f"the row should have {len(columns)} fields as {dialect.named_by} has, but has {len(fields)}"
            yield line, RowError(message)
        elif len(fields) > named and (extra := next((field for field in fields[named:] if field.strip()), None)):
            place = fields.index(extra, named) + 1
            separators = _DELIMITERS[dialect.delimiter]
            yield (
                line,
                RowError(
                    f"the row has {quote(extra)} in column {place}, which has no name; put a text with {separators} in "
                    "quotes, or name the column"
                ),
            )
        elif fields:
            yield line, {name: fields[place] for name, place in places.items()}


def _tsv_is_quoted(text: OpenText, path: Path, wanted: Collection[str]) -> tuple[bool, list[str]]:
    """Tell whether quotes enclose the fields of a TSV file, or are part of them; say so where both could be.

    They enclose fields where the whole file is what a writer gives that quotes the fields that need it, or all; where
    only then the header has the wanted columns; and where only then all rows have as many fields as the header.
    """
    if not _has_quotes(text):
        return False, []
    quoted, plain = _Dialect("\t"), _Dialect("\t", quoted=False)
    shape = _find_shape(text, quoted)
    if shape is None:
        return False, []
    both = zip_longest(_records(text, quoted), _records(text, plain), fillvalue=(1, None))
    first = next((line for (line, one), (_, other) in both if one != other), None)
    if first is None:
        return False, []
    fits = shape.fits(wanted)
    if _is_written(text, quoted) or (fits and not ((other := _find_shape(text, plain)) and other.fits(wanted))):
        return True, [
            f"{path}: quotes are read as enclosing fields, first in line {first}; if they are part of the text, read "
            "the lines with `pattern`"
        ]
    if fits:
        return False, [
            f"{path}: quotes are read as part of the text, first in line {first}; if they enclose fields, name the "
            "file .csv, which may have tabs too"
        ]
    return False, []


def _has_quotes(text: OpenText) -> bool:
    with text("") as stream:
        return any('"' in line for line in stream)


@dataclass(frozen=True)
class _Shape:
    """Of the records of a file that are no blank lines, the first, and how many fields they have."""

    header: list[str]
    lengths: set[int]

    def fits(self, wanted: Collection[str]) -> bool:
        """Whether there are the wanted columns, and as many fields in each row."""
        return set(wanted) <= {name.strip() for name in self.header} and len(self.lengths) == 1


def _find_shape(text: OpenText, dialect: _Dialect) -> _Shape | None:
    """Go through the records of a file; None where one cannot be read."""
    shape: _Shape | None = None
    for _, fields in _records(text, dialect):
        if isinstance(fields, RowError):
            return None
        if fields:
            shape = shape or _Shape(fields, set())
            shape.lengths.add(len(fields))
    return shape


class _Echo:
    """A file for ``csv.writer``, which returns what this returns."""

    def write(self, text: str) -> str:
        """Return what is written."""
        return text


def _is_written(text: OpenText, dialect: _Dialect) -> bool:
    """Whether a writer that quotes what needs it, or everything, gives this text for the records that are in it."""
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        writer: Any = csv.writer(_Echo(), delimiter=dialect.delimiter, quoting=quoting, lineterminator="\n")
        written = (writer.writerow(fields) for _, fields in _records(text, dialect) if fields)
        with text("") as stream:
            if _are_equal(stream, written):
                return True
    return False


def _are_equal(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether parts make the same text, but for how its lines end, and for line ends at its end."""
    parts, others = ((part.replace("\r\n", "\n") for part in one) for one in (first, second))
    part = other = ""
    while True:
        part, other = part or next(parts, ""), other or next(others, "")
        size = min(len(part), len(other))
        if not size:
            return not any(rest.strip("\n") for rest in (part, other, *parts, *others))
        if part[:size] != other[:size]:
            return False
        part, other = part[size:], other[size:]
