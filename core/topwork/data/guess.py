"""Guess from rows which columns are texts and which are labels, and of what kind."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from topwork.data.labels import is_missing, read_number

#: Names that columns with texts often have, the likeliest first.
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "comment", "question", "utterance", "message", "title")

#: Names of two columns whose texts belong together.
PAIR_NAMES = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"))

#: Names that columns of words often have.
WORDS_NAMES = ("words", "tokens", "form", "word")

#: What is written of numbers that are none, or without end.
NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")

#: What may stand between the labels of one cell.
SEPARATORS = ("|", ";", ",")

#: More classes than this are no classes.
MAX_CLASSES = 200

Kind = Literal["text", "words", "classes", "numbers", "sets", "shares", "word labels"]


@dataclass(frozen=True)
class Column:
    """What a column seems to be.

    Attributes:
        kind: None where it seems to be neither a text nor a label.
        why: in words.
        missing: how many cells are empty.
        classes: how often each class, or each label of the sets, is there.
        separator: what stands between the labels of a cell.
        length: the mean number of characters of a text.
    """

    name: str
    kind: Kind | None
    why: str
    missing: int = 0
    classes: Mapping[str, int] | None = None
    separator: str | None = None
    length: float = 0.0


@dataclass(frozen=True)
class Guess:
    """What the rows of a file seem to be.

    Attributes:
        texts: the column with the text or the words, or the two of a pair.
        labels: the columns with labels.
        others: those that seem to be neither.
        rows: how many rows there are.
    """

    texts: tuple[Column, ...]
    labels: tuple[Column, ...]
    others: tuple[Column, ...]
    rows: int


def guess(rows: Sequence[Mapping[str, Any]]) -> Guess:
    """Say what the columns of some rows seem to be.

    Raises:
        ValueError: no column has texts.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: [row.get(name) for row in rows] for name in names}
    columns = {name: _column(name, cells[name]) for name in names}
    texts = _texts(columns)
    if not texts:
        told = "; ".join(f"{name}: {column.why}" for name, column in columns.items())
        raise ValueError(f"no column seems to have texts ({told}); write the experiment by hand")
    if texts[0].kind == "words":
        columns |= {name: _aligned(column, cells[name], cells[texts[0].name]) for name, column in columns.items()}
    taken = {text.name for text in texts}
    rest = [column for name, column in columns.items() if name not in taken]
    labels = tuple(column for column in rest if column.kind not in (None, "text", "words"))
    return Guess(texts, labels, tuple(column for column in rest if column not in labels), len(rows))


def without_foreign(guessed: Guess, rows: Sequence[Mapping[str, Any]]) -> Guess:
    """Set those labels aside that have other classes in rows to evaluate on, as what only describes a file has."""
    foreign = []
    for column in guessed.labels:
        if column.kind == "classes" and column.classes:
            cells = [row.get(column.name) for row in rows]
            given = {str(cell).strip() for cell in cells if not is_missing(cell, strip=True)}
            if given - {str(name).strip() for name in column.classes}:
                foreign.append(replace(column, kind=None, why="its classes are others in the other files"))
    names = {column.name for column in foreign}
    labels = tuple(column for column in guessed.labels if column.name not in names)
    return replace(guessed, labels=labels, others=(*guessed.others, *foreign))


def _texts(columns: Mapping[str, Column]) -> tuple[Column, ...]:
    """Choose the column of words, the two of a pair, or the one with the likeliest name, or else the longest texts."""
    for name in WORDS_NAMES:
        if name in columns and columns[name].kind in ("words", "sets"):
            return (_as_words(columns[name]),)
    found = {name: column for name, column in columns.items() if column.kind == "text"}
    for first, second in PAIR_NAMES:
        if first in found and second in found:
            return found[first], found[second]
    for likely in TEXT_NAMES:
        if named := [column for name, column in found.items() if name.lower() == likely]:
            return (named[0],)
    longest = sorted(found.values(), key=lambda column: -column.length)
    if len(found) == 2 and longest[0].length < 2 * longest[1].length:
        return tuple(found.values())  # of like length, so that they seem to be a pair
    words = [column for column in columns.values() if column.kind == "words"]
    return tuple(longest[:1] or words[:1])


def _as_words(column: Column) -> Column:
    return Column(column.name, "words", "lists of words", column.missing)


def _column(name: str, cells: Sequence[Any]) -> Column:
    """Say what one column seems to be."""
    given = [cell for cell in cells if not is_missing(cell, strip=True)]
    missing = len(cells) - len(given)
    if not given:
        return Column(name, None, "it is empty", missing)
    if all(isinstance(cell, list) for cell in given):
        return _lists(name, given, missing)
    if all(isinstance(cell, Mapping) for cell in given):
        if any(_numbers(cell.values()) is None for cell in given):
            return Column(name, None, "objects of other things than numbers", missing)
        return Column(name, "shares", "objects with shares of classes", missing)
    if any(isinstance(cell, list | Mapping) for cell in given):
        return Column(name, None, "it has lists or objects in some rows alone", missing)
    if (numbers := _numbers(given)) is not None:
        return _numeric(name, numbers, given, missing)
    if _numbers([cell for cell in given if str(cell).strip().lower() not in NOT_FINITE]) is not None:
        return Column(name, None, "numbers, of which some are not finite", missing)
    if any(not character.isprintable() for cell in given for character in str(cell).strip()[:200]):
        written = [str(cell) for cell in given]
        found = _strings(name, written, missing)
        return found if found.kind in ("text", None) else replace(found, kind=None, why="it has control characters")
    return _strings(name, [str(cell) for cell in given], missing)


def _lists(name: str, given: Sequence[list[Any]], missing: int) -> Column:
    """Lists are words where they are long, and sets of labels where there are few different ones."""
    if not all(type(item) in (str, int) for cell in given for item in cell):
        return Column(name, None, "lists of other things than names", missing)
    items = Counter(str(item) for cell in given for item in cell)
    mean = sum(map(len, given)) / len(given)
    if len(items) <= MAX_CLASSES and mean < 4:
        return Column(name, "sets", f"lists of {len(items)} different labels", missing, items)
    return Column(name, "words", "lists of words", missing)


def _aligned(column: Column, cells: Sequence[Any], words: Sequence[Any]) -> Column:
    """Of rows that are divided into words, a list as long as the words has a label for each."""
    pairs = [(cell, of_row) for cell, of_row in zip(cells, words, strict=True) if cell is not None]
    if not pairs or not all(isinstance(cell, list) and len(cell) == len(of_row) for cell, of_row in pairs):
        return column
    classes = Counter(str(item) for cell, _ in pairs for item in cell if item is not None)
    if len(classes) > MAX_CLASSES:
        return Column(column.name, None, f"a label for each word, but {len(classes)} different ones", column.missing)
    return Column(column.name, "word labels", f"{len(classes)} classes of words", column.missing, classes)


def _numbers(given: Iterable[Any]) -> list[float] | None:
    """The cells as numbers; None where some are none."""
    try:
        return [read_number(cell) for cell in given]
    except ValueError:
        return None


def _numeric(name: str, numbers: Sequence[float], given: Sequence[Any], missing: int) -> Column:
    """Few whole numbers are classes; numbers that count the rows are nothing."""
    distinct = sorted(set(numbers))
    whole = all(number.is_integer() for number in distinct)
    if len(distinct) == 1:
        return Column(name, None, "it is the same in all rows", missing)
    if whole and len(distinct) == len(numbers) and distinct[-1] - distinct[0] < 1.1 * len(numbers):
        return Column(name, None, "it numbers the rows", missing)
    written_whole = not any("." in str(cell) for cell in given)
    if whole and written_whole and len(distinct) <= min(20, len(numbers) / 3):
        return Column(name, "classes", f"{len(distinct)} whole numbers", missing, Counter(str(cell) for cell in given))
    low, high = distinct[0], distinct[-1]
    return Column(name, "numbers", f"numbers from {low:g} to {high:g}", missing)


def _strings(name: str, given: Sequence[str], missing: int) -> Column:
    """Few different short texts are classes, or sets of labels; many different ones are texts."""
    counts = Counter(cell.strip() for cell in given)
    length = sum(map(len, given)) / len(given)
    words = sum(len(cell.split()) for cell in given) / len(given)
    most = min(MAX_CLASSES, max(2, len(given) / 4))
    if len(counts) == 1:
        return Column(name, None, "it is the same in all rows", missing)
    if len(counts) <= most and words < 6:
        sets = _separated(counts, most=len(counts))
        if sets is None or _is_one_class_each(counts, sets[0]):
            return Column(name, "classes", f"{len(counts)} classes", missing, counts)
    else:
        sets = _separated(counts, most=int(most))
    if sets:
        separator, labels = sets
        return Column(name, "sets", f"{len(labels)} labels, several in a cell", missing, labels, separator)
    if words >= 3 or (length >= 20 and words >= 2) or (name.lower() in TEXT_NAMES and length >= 5):
        return Column(name, "text", f"texts of {words:.0f} words", missing, length=length)
    return Column(name, None, f"{len(counts):,} different values in {len(given):,} rows", missing, length=length)


def _separated(counts: Counter[str], *, most: int) -> tuple[str, Counter[str]] | None:
    """Return what separates labels within cells, and how often each is there; None where nothing seems to."""
    total = sum(counts.values())
    for separator in SEPARATORS:
        divided = sum(count for cell, count in counts.items() if separator in cell)
        labels: Counter[str] = Counter()
        for cell, count in counts.items():
            for label in cell.split(separator):
                labels[label.strip()] += count
        short = all(label and len(label.split()) <= 3 for label in labels)
        if divided >= total / 10 and short and len(labels) <= most:
            return separator, labels
    return None


def _is_one_class_each(counts: Counter[str], separator: str) -> bool:
    """Whether what is separated never stands alone or in other company, so that cells are names with a mark in them."""
    alone = {cell for cell in counts if separator not in cell}
    parts = {part.strip() for cell in counts if separator in cell for part in cell.split(separator)}
    return not alone & parts
