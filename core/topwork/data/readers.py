"""Read rows from files. Every value stays the text it is, every row knows its line.

A reader yields ``(line, row)`` for good rows and ``(line, message)`` for bad ones, so that the caller can
report many errors together. Blank lines are not rows.
"""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork.errors import DataError, did_you_mean, first_line

#: A row is columns to values; a message says why there is none.
Row = Mapping[str, Any]
Read = Iterator[tuple[int, Row | str]]


def read(path: Path, content: bytes, *, pattern: str | None, encoding: str) -> Read:
    """Read the rows of a file's ``content``: with ``pattern`` if there is one, or as its suffix says.

    Raises:
        DataError: the suffix is unknown, or the content is not text in ``encoding``.
    """
    if pattern is not None:
        return _read_pattern(decode(path, content, encoding), path, pattern)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_delimited(decode(path, content, encoding), path, delimiter=",", quoting=csv.QUOTE_MINIMAL)
    if suffix == ".tsv":  # in TSV a quote is a plain character
        return _read_delimited(decode(path, content, encoding), path, delimiter="\t", quoting=csv.QUOTE_NONE)
    if suffix == ".jsonl":
        return _read_jsonl(decode(path, content, encoding))
    if suffix == ".parquet":
        return _read_parquet(path, content)
    raise DataError(
        f"{path}: files ending in .csv, .tsv, .jsonl or .parquet are read as they are; "
        f"set `pattern` to read the lines of a {suffix or 'suffixless'} file"
    )


def decode(path: Path, content: bytes, encoding: str) -> str:
    """Decode text, dropping a byte-order mark.

    Raises:
        DataError: names line, byte and the option to set.
    """
    try:
        codec = codecs.lookup(encoding)
        if not codec._is_text_encoding:
            raise LookupError
    except LookupError:
        raise DataError(f"{path}: unknown encoding {encoding!r}; try utf-8, latin-1 or cp1252") from None
    try:
        text = content.decode(codec.name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte {error.start} (0x{content[error.start]:02x}) is not {encoding}; "
            "set `encoding` of the source, for example `encoding: latin-1`"
        ) from None
    return text.removeprefix("\ufeff") if codec.name == "utf-8" else text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Split at line feeds only: other characters that Python takes for line ends occur inside real texts."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip():
            yield number, line


def _read_pattern(text: str, path: Path, pattern: str) -> Read:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{path}: pattern {pattern!r} is not a regular expression: {error}") from None
    if not expression.groupindex:
        raise DataError(f"{path}: pattern {pattern!r} must name its columns, such as (?P<label>\\S+) (?P<text>.*)")
    for number, line in _lines(text):
        found = expression.fullmatch(line)
        yield number, found.groupdict() if found else f"the line does not match the pattern: {_shorten(line)}"


def _read_delimited(text: str, path: Path, *, delimiter: str, quoting: Any) -> Read:
    csv.field_size_limit(sys.maxsize)  # a text may be longer than the default limit of 131,072 characters
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise DataError(f"{path}:1: not valid CSV: {error}") from None
    if not header:
        raise DataError(f"{path}:1: the first line must name the columns, but {'it' if text else 'the file'} is empty")
    if len(set(header)) < len(header):
        raise DataError(f"{path}:1: column names must differ, but they are {', '.join(header)}")
    while True:
        starts_at = rows.line_num + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield starts_at, f"not valid CSV: {error}"
            return  # the rest of the file cannot be divided into rows
        if not fields:
            continue
        if len(fields) == len(header):
            yield starts_at, dict(zip(header, fields, strict=True))
        else:
            yield starts_at, f"the row should have {len(header)} fields as the header has, but has {len(fields)}"


def _read_jsonl(text: str) -> Read:
    for number, line in _lines(text):
        try:
            row = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            yield number, f"not valid JSON: {error.msg} at character {error.colno}"
        except ValueError as error:
            yield number, str(error)
        except RecursionError:
            yield number, "the JSON is nested too deeply"
        else:
            yield number, row if isinstance(row, dict) else f"a row must be a JSON object, got {_shorten(line)}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return row


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _read_parquet(path: Path, content: bytes) -> Read:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {first_line(error)}") from None
    return enumerate(table.to_pylist(), 1)


def column_missing(name: str, row: Row) -> str:
    """Say that ``row`` has no column ``name``, and which it has."""
    return f"there is no such column, only {', '.join(row)}{did_you_mean(name, row)}"


def _shorten(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
