"""Read a source and check every row."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topwork.data.readers import Row, column_missing, read
from topwork.errors import DataError, reason_of
from topwork.experiment.schema import Source

#: How many faulty rows a message names; it always gives the total.
SHOWN = 20


@dataclass
class Table:
    """N rows, column by column.

    Attributes:
        texts: the text column.
        columns: each further column that was asked for, as text.
        locations: ``file:line`` of each row.
        digest: sha256 of the file's bytes, in hexadecimal.
    """

    texts: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    locations: list[str] = field(default_factory=list)
    digest: str = ""


def read_table(path: Path, source: Source, columns: Sequence[str]) -> Table:
    """Read the text and ``columns`` of every row of a file.

    Raises:
        DataError: the file cannot be read, or rows are faulty: the first 20 are named, and the total.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from None
    table = Table(columns={name: [] for name in columns}, digest=hashlib.sha256(content).hexdigest())
    problems: list[str] = []
    types: dict[str, type] = {}
    for number, (line, row) in enumerate(read(path, content, pattern=source.pattern, encoding=source.encoding)):
        if source.limit is not None and number >= source.limit:
            break
        location = f"{path}:{line}"
        if isinstance(row, str):
            problems.append(f"{location}: {row}")
            continue
        errors = [*_check_text(row, source.text), *(f for name in columns for f in _check_label(row, name, types))]
        if errors:
            problems += [f"{location}: {error}" for error in errors]
            if any(name not in row for name in (source.text, *columns)) and path.suffix.lower() != ".jsonl":
                break  # a missing column is missing in every row; once is enough
            continue
        table.texts.append(row[source.text])
        table.locations.append(location)
        for name in columns:
            value = row[name]
            table.columns[name].append(str(value).lower() if isinstance(value, bool) else str(value))
    if problems:
        raise DataError("\n".join(summarize(problems)))
    if not table.texts:
        raise DataError(f"{path}: the file holds no rows")
    return table


def summarize(problems: Sequence[str]) -> list[str]:
    """Keep the first 20 problems and say how many there are."""
    if len(problems) <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], f"... and {len(problems) - SHOWN} more; {len(problems)} problems in all"]


def has_lone_surrogate(text: str) -> bool:
    """Whether ``text`` holds half a character, which no tokenizer reads."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _check_text(row: Row, column: str) -> list[str]:
    if column not in row:
        return [f"{column}: {column_missing(column, row)}"]
    text = row[column]
    if not isinstance(text, str):
        return [f"{column}: a text must be a string, got {text!r}"]
    if not text.strip():
        return [f"{column}: the text is empty"]
    if has_lone_surrogate(text):
        return [f"{column}: the text holds half a character (a lone surrogate)"]
    return []


def _check_label(row: Row, column: str, types: dict[str, type]) -> list[str]:
    if column not in row:
        return [f"{column}: {column_missing(column, row)}"]
    label = row[column]
    if not isinstance(label, str | int):
        return [f"{column}: a label must be a string or a whole number, got {label!r}"]
    if label == "":
        return [f"{column}: the label is empty"]
    expected = types.setdefault(column, type(label))
    if type(label) is not expected:
        return [
            f"{column}: labels above are of type {expected.__name__}, but {label!r} is of type {type(label).__name__}"
        ]
    return []
