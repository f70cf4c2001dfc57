"""Read rows from files. Every value stays the text it is, every row knows its line.

A reader yields a line with a row, or with why there is none, so that the caller can report many errors together.
Blank lines are not rows.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from topwork.data.conll import CONLLU_COLUMNS, read_conll
from topwork.data.decoding import OpenText, decode
from topwork.data.delimited import read_delimited
from topwork.data.files import OpenBytes, format_suffix
from topwork.data.rows import FileRows, Row, RowError
from topwork.errors import DataError, did_you_mean, enumerate_names, first_line, quote
from topwork.experiment.source import Source

_Rows = Iterator[tuple[int, Row | RowError]]

#: What is read without a pattern.
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".conllu", ".conll")

#: How many rows of a Parquet file are read at once, and how many bytes of each column.
_BATCH, _BUFFER = 4096, 1024 * 1024


def read(path: Path, content: OpenBytes, source: Source, *, wanted: Collection[str]) -> FileRows:
    """Read the rows of a file's ``content``: with the source's pattern if there is one, or as the suffix says.

    Args:
        source: for ``pattern``, ``columns`` and ``encoding``.
        wanted: the columns that are asked for. Others may be there twice; then rows do not have them. Of a Parquet file
            that has all of them, the others are not read; where none is asked for, all are.

    Raises:
        DataError: the suffix is unknown, the content is not text in the encoding, or a wanted column is there twice.
    """
    suffix = format_suffix(path)
    if source.pattern is None and suffix not in SUFFIXES:
        raise DataError(
            f"{path}: files ending in {enumerate_names(SUFFIXES)} are read as they are; "
            f"set `pattern` to read the lines of a {suffix or 'suffixless'} file"
        )
    if source.columns and suffix not in (".csv", ".tsv", ".conll"):
        raise DataError(f"{path}: only .csv, .tsv and .conll files have rows without names; leave out `columns`")
    if suffix == ".conll" and source.pattern is None and not source.columns:
        raise DataError(f"{path}: a .conll file does not name its columns; name them, such as columns: [word, tag]")
    if source.pattern is None and suffix == ".parquet":
        if source.encoding != "utf-8":
            raise DataError(f"{path}: a Parquet file has texts, not bytes; leave out `encoding` of the source")
        return FileRows(_read_parquet(path, content, wanted))
    text, notes = decode(path, content, source.encoding)
    if source.pattern is not None:
        return FileRows(_read_pattern(text, _compile(path, source.pattern)), notes)
    if suffix in (".conllu", ".conll"):
        columns = CONLLU_COLUMNS if suffix == ".conllu" else source.columns or ()
        return FileRows(read_conll(_lines(text, blank=True), columns, universal=suffix == ".conllu"), notes)
    if suffix == ".jsonl":
        return FileRows(_read_jsonl(text, wanted), notes)
    delimiter = "," if suffix == ".csv" else "\t"
    found = read_delimited(text, path, delimiter=delimiter, wanted=wanted, columns=source.columns)
    return FileRows(found.rows, (*notes, *found.notes))


def _lines(text: OpenText, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Split at line feeds only: other characters that Python takes for line ends occur inside real texts.

    Args:
        blank: whether blank lines are wanted, too.
    """
    with text("\n") as stream:
        for number, line in enumerate(stream, 1):
            line = line.removesuffix("\n").removesuffix("\r")
            if blank or line.strip():
                yield number, line


def _compile(path: Path, pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: pattern {quote(pattern)} is not a regular expression: {first_line(error)}") from None
    if not expression.groupindex:
        raise DataError(f"{path}: pattern {quote(pattern)} must name its columns, such as (?P<label>\\S+) (?P<text>.*)")
    return expression


def _read_pattern(text: OpenText, expression: re.Pattern[str]) -> _Rows:
    for number, line in _lines(text):
        found = expression.fullmatch(line)
        yield number, found.groupdict() if found else RowError(f"the line does not match the pattern: {quote(line)}")


def _read_jsonl(text: OpenText, wanted: Collection[str]) -> _Rows:
    decoder = json.JSONDecoder(object_pairs_hook=partial(_unique, wanted=wanted), parse_constant=_refuse_constant)
    for number, line in _lines(text):
        try:
            # ``json.loads`` would make a decoder for each line; it alone says that one begins with a byte-order mark
            row = json.loads(line) if line.startswith("\ufeff") else decoder.decode(line)
        except json.JSONDecodeError as error:
            yield number, RowError(f"not valid JSON: {error.msg} at character {error.colno}")
        except ValueError as error:
            yield number, RowError(first_line(error))
        except RecursionError:
            yield number, RowError("the JSON is nested too deeply")
        else:
            yield number, row if isinstance(row, dict) else RowError(f"a row must be a JSON object, got {quote(line)}")


def _unique(pairs: list[tuple[str, Any]], wanted: Collection[str]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1 and name in wanted:
                raise ValueError(f"key {name!r} occurs twice")
    return row


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _read_parquet(path: Path, content: OpenBytes, wanted: Collection[str]) -> _Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with content() as stream:
            counts = Counter(pyarrow.parquet.read_schema(stream).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from None
    for name in wanted:
        if counts[name] > 1:
            raise DataError(f"{path}: {counts[name]} columns are named {name!r}; rename all but the one that is meant")
    unique = [name for name, count in counts.items() if count == 1]
    return _rows_of_parquet(path, content, list(wanted) if wanted and set(wanted) <= set(unique) else unique)


def _rows_of_parquet(path: Path, content: OpenBytes, columns: list[str]) -> _Rows:
    """Read some columns of a file, batch by batch."""
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with content() as stream:
            file = pyarrow.parquet.ParquetFile(stream, buffer_size=_BUFFER)
            for batch in file.iter_batches(_BATCH, columns=columns):
                found = batch.select(columns).to_pylist()  # without columns that lie within one of these
                yield from enumerate(found, row + 1)
                row += len(found)
    except (pyarrow.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from None


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable Parquet file: {first_line(error)}")


def column_missing(name: str, row: Row) -> str:
    """Say that ``row`` has no column ``name``, and which it has."""
    return f"there is no such column, only {enumerate_names(row) or 'some without names'}{did_you_mean(name, row)}"
