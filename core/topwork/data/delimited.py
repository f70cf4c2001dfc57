"""Read CSV and TSV as its writers write it: the header decides what is not as the suffix says."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
    text: str, path: Path, *, delimiter: str, wanted: Collection[str], columns: Sequence[str] | None = None
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
    text: str, path: Path, *, delimiter: str, wanted: Collection[str], columns: Sequence[str]
) -> FileRows:
    """Read a file of rows alone. Where it has tabs, quotes are part of the text, as in files that people publish so."""
    names = [name for name in columns if name != REST]
    if absent := [name for name in wanted if name not in names]:
        raise DataError(f"{path}: columns of the source names {', '.join(names)}, but not {', '.join(absent)}")
    dialect = _Dialect(delimiter, quoted=delimiter != "\t", open_ended=REST in columns, named_by="`columns`")
    return FileRows(_rows(_records(text, dialect), names, dialect))


def _find_columns(
    text: str, path: Path, dialect: _Dialect, wanted: Collection[str]
) -> tuple[_Dialect, list[str], list[str]]:
    """Find how the header is written; return that with the names of the columns, and what is to be said about it."""
    _, header = next(_records(text, dialect), (1, []))
    stripped: list[str] = []
    if not isinstance(header, RowError):
        if not header:
            what = "it" if text else "the file"
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


def _records(text: str, dialect: _Dialect) -> _Records:
    """Divide a text into records; the first that cannot be read is the last."""
    csv.field_size_limit(sys.maxsize)  # a text may be longer than the default limit of 131,072 characters
    records = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    while True:
        line = records.line_num + 1
        try:
            yield line, next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, RowError(f"not valid CSV: {error}", ends_file=True)
            return


def _rows(records: _Records, columns: Sequence[str], dialect: _Dialect) -> Iterator[tuple[int, Row | RowError]]:
    """Bring fields and columns together.

    Columns without a name behind all others come from spreadsheets. They must be empty, lest a comma inside a text
    shifts what stands behind it, and may be left out, as spreadsheets do from some line on.
    """
    counts = Counter(columns)
    places = {name: place for place, name in enumerate(columns) if name and counts[name] == 1}
    named = max((place for place, name in enumerate(columns) if name), default=-1) + 1
    for line, fields in records:
        if isinstance(fields, RowError):
            yield line, fields
        elif fields and dialect.open_ended and len(fields) >= len(columns):
            yield line, {name: fields[place] for name, place in places.items()}
        elif fields and not named <= len(fields) <= len(columns):
            message = f"the row should have {len(columns)} fields as {dialect.named_by} has, but has {len(fields)}"
            yield line, RowError(message)
        elif fields and (extra := next((field for field in fields[named:] if field.strip()), None)):
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


def _tsv_is_quoted(text: str, path: Path, wanted: Collection[str]) -> tuple[bool, list[str]]:
    """Tell whether quotes enclose the fields of a TSV file, or are part of them; say so where both could be.

    They enclose fields where the whole file is what a writer gives that quotes the fields that need it, or all; where
    only then the header has the wanted columns; and where only then all rows have as many fields as the header.
    """
    if '"' not in text:
        return False, []
    enclosing = [*_records(text, _Dialect("\t"))]
    if (rows := _fields(enclosing)) is None:
        return False, []
    plain = [*_records(text, _Dialect("\t", quoted=False))]
    if (plain_rows := _fields(plain)) == rows:
        return False, []
    different = (line for (line, one), (_, other) in zip(enclosing, plain, strict=False) if one != other)
    first = next(different, 1)
    if _is_written(text, rows) or (_fits(rows, wanted) and not _fits(plain_rows, wanted)):
        return True, [
            f"{path}: quotes are read as enclosing fields, first in line {first}; if they are part of the text, read "
            "the lines with `pattern`"
        ]
    if _fits(rows, wanted):
        return False, [
            f"{path}: quotes are read as part of the text, first in line {first}; if they enclose fields, name the "
            "file .csv, which may have tabs too"
        ]
    return False, []


def _fields(records: Sequence[tuple[int, list[str] | RowError]]) -> list[list[str]] | None:
    """The fields of each record that is no blank line; None where one cannot be read."""
    found = [fields for _, fields in records if not isinstance(fields, RowError) and fields]
    return None if any(isinstance(fields, RowError) for _, fields in records) else found


def _is_written(text: str, rows: Sequence[list[str]]) -> bool:
    """Whether a writer that quotes what needs it, or everything, gives this text for these rows."""
    wanted = text.replace("\r\n", "\n").rstrip("\n")
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        file = io.StringIO()
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(rows)
        if file.getvalue().replace("\r\n", "\n").rstrip("\n") == wanted:
            return True
    return False


def _fits(rows: Sequence[list[str]] | None, wanted: Collection[str]) -> bool:
    """Whether a table has the wanted columns, and as many fields in each row."""
    return rows is not None and set(wanted) <= {name.strip() for name in rows[0]} and len(set(map(len, rows))) == 1
