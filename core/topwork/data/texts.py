"""The text of a row: one, a pair of them, or one that is divided into words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topwork.data.readers import column_missing
from topwork.errors import quote

#: Words that a text may have; an encoder reads far fewer, and all rows are held at the length of the longest.
MAX_WORDS = 10_000


@dataclass(frozen=True, slots=True)
class Words:
    """A text that is divided into words."""

    words: tuple[str, ...]


#: One text, two that belong together, or one that is divided into words.
Text = str | tuple[str, str] | Words


def parts_of(text: Text) -> tuple[str, ...]:
    """Return the one text, both, or its words."""
    if isinstance(text, Words):
        return text.words
    return (text,) if isinstance(text, str) else text


def written(text: Text) -> str:
    """Write a text in one line: a tab stands between those of a pair, a blank between words."""
    return (" " if isinstance(text, Words) else "\t").join(parts_of(text))


def read_text(row: Mapping[str, Any], columns: Sequence[str]) -> Text:
    """Return what stands in one text column, or in two.

    Raises:
        ValueError: something else does; names the columns.
    """
    if errors := [f"{column}: {error}" for column in columns if (error := why_no_text(row, column))]:
        raise ValueError("\n".join(errors))
    texts = [row[column] for column in columns]
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


def read_words(row: Mapping[str, Any], column: str) -> Words:
    """Return the words in a column: a list, or a text that is divided at blanks.

    Raises:
        ValueError: something else stands there; names the column.
    """
    cell = row.get(column)
    if not isinstance(cell, list | tuple):
        if error := why_no_text(row, column):
            raise ValueError(f"{column}: {error}")
        cell = row[column].split()
    if not cell:
        raise ValueError(f"{column}: the text has no word")
    if len(cell) > MAX_WORDS:
        raise ValueError(f"{column}: a text has at most {MAX_WORDS:,} words, got {len(cell):,}; divide it")
    for number, word in enumerate(cell, 1):
        if error := why_no_text({"word": word}, "word"):
            raise ValueError(f"{column}: word {number} of {len(cell)}: {error}")
    return Words(tuple(cell))


def why_no_text(row: Mapping[str, Any], column: str) -> str:
    """Say why a column of a row holds no text that can be read; nothing where it does."""
    if column not in row:
        return column_missing(column, row)
    text = row[column]
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return "the text is missing"
    if not isinstance(text, str):
        return f"a text must be a string, got {quote(text)}"
    if not text.strip():
        return "the text is empty"
    if has_lone_surrogate(text):
        return "the text holds half a character (a lone surrogate)"
    return ""


def has_lone_surrogate(text: str) -> bool:
    """Whether ``text`` holds half a character, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
