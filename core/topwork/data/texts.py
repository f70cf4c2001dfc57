"""The text of a row: one, or a pair of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from topwork.data.readers import column_missing
from topwork.errors import quote

#: One text, or two that belong together.
Text = str | tuple[str, str]


def parts_of(text: Text) -> tuple[str, ...]:
    """Return the one text, or both."""
    return (text,) if isinstance(text, str) else text


def read_text(row: Mapping[str, Any], columns: Sequence[str]) -> Text:
    """Return what stands in one text column, or in two.

    Raises:
        ValueError: something else does; names the columns.
    """
    if errors := [f"{column}: {error}" for column in columns if (error := why_no_text(row, column))]:
        raise ValueError("\n".join(errors))
    texts = [row[column] for column in columns]
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


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
