"""Read sentences of which each word has a line, with columns: CoNLL-U, and what other CoNLL tasks use."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from topwork.data.rows import Row, RowError
from topwork.errors import quote
from topwork.experiment.source import REST

#: The ten columns of CoNLL-U (https://universaldependencies.org/format.html), in lower case.
CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

#: The number of a word in CoNLL-U, and of what is none: a range of words that are written as one, or an empty node.
_WORD, _NO_WORD = re.compile(r"[1-9]\d*"), re.compile(r"\d+-\d+|\d+\.\d+")


def read_conll(
    lines: Iterable[tuple[int, str]], columns: Sequence[str], *, universal: bool
) -> Iterator[tuple[int, Row | RowError]]:
    """Yield a row for each sentence, at the line of its first word: a list of the words' values for each column.

    Args:
        lines: with their numbers, blank ones too, which end a sentence.
        columns: their names; the last may be ``...``.
        universal: whether the file is CoNLL-U. Then fields are divided by tabs; comments such as ``# text = A line``
            are further columns; ``_`` is no value, unless it is the word itself; and lines of ranges of words or of
            empty nodes are left out. Else they are divided by tabs or blanks, and ``-DOCSTART-`` begins no sentence.
    """
    sentence = _Sentence(columns, universal)
    for number, line in lines:
        if line.strip():
            sentence.add(number, line)
            continue
        yield from sentence.rows()
        sentence = _Sentence(columns, universal)
    yield from sentence.rows()


class _Sentence:
    """The lines of a sentence, as they come."""

    def __init__(self, columns: Sequence[str], universal: bool) -> None:
        self.names = [name for name in columns if name != REST]
        self.open = REST in columns
        self.universal = universal
        self.values: dict[str, list[str | None]] = {name: [] for name in self.names}
        self.comments: dict[str, str] = {}
        self.first = 0  # the line of its first word
        self.error: tuple[int, RowError] | None = None

    def add(self, number: int, line: str) -> None:
        """Read one line; the first that is wrong spoils the sentence."""
        if self.error:
            return
        divided_by_tabs = self.universal or "\t" in line  # other blanks, such as U+00A0, occur inside words
        fields = line.split("\t") if divided_by_tabs else [field for field in line.split(" ") if field]
        fits = len(fields) == len(self.names) or (self.open and len(fields) > len(self.names))
        if line.startswith("#") and not self.first and (self.universal or not fits):
            name, _, value = line[1:].partition("=")
            self.comments[name.strip()] = value.strip()
            return
        if fields[0] == "-DOCSTART-" and not self.universal:
            return
        if not fits:
            least = "at least " if self.open else ""
            wanted = f"{least}{len(self.names)} fields divided by {'tabs' if self.universal else 'tabs or blanks'}"
            self.error = number, RowError(f"a word's line must have {wanted}, got {len(fields)}: {quote(line)}")
            return
        if self.universal and not _WORD.fullmatch(fields[0]):
            if not _NO_WORD.fullmatch(fields[0]):
                message = f"a word's line must begin with its number, got {quote(fields[0])}"
                self.error = number, RowError(message)
            return
        self.first = self.first or number
        for name, field in zip(self.names, fields, strict=False):
            self.values[name].append(None if self._is_no_value(name, field, fields) else field)

    def rows(self) -> Iterator[tuple[int, Row | RowError]]:
        """Yield the sentence, if there is any, or what is wrong with it."""
        if self.error:
            yield self.error
        elif self.first:
            row: dict[str, Any] = {**(self.comments if self.universal else {}), **self.values}
            yield self.first, row

    def _is_no_value(self, name: str, field: str, fields: Sequence[str]) -> bool:
        """Whether a field of CoNLL-U says that there is nothing, and not that the word is an underscore."""
        return self.universal and field == "_" and not (name == "form" or (name == "lemma" and fields[1] == "_"))
