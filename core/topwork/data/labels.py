"""From what stands in a label column to the name of a class."""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from topwork.data.label_column import LabelColumn
from topwork.errors import quote
from topwork.experiment.label_format import LabelFormat

#: A label is the name of a class: it stands in tables, figures and metrics.
MAX_LENGTH = 1000

#: What a label must not hold, by Unicode category.
_FORBIDDEN = {"Cc": "a control character", "Cs": "half a character", "Zl": "a line end", "Zp": "a line end"}

#: What makes labels equal that look alike, from the mildest.
_MERGING: tuple[dict[str, Any], ...] = (
    {"strip": True},
    {"normalize": "NFC"},
    {"casefold": True},
    {"normalize": "NFKC"},
    {"strip": True, "casefold": True, "normalize": "NFKC"},
)

#: A number as text: Python reads more, such as ``1_000`` and ``infinity``.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

#: How many spellings or classes one warning names, and how many rows of each.
_SHOWN, _FIRST = 5, 3


#: What a cell has that is no list and no object; a tuple, as ``isinstance`` makes a union anew in every row.
PLAIN = (str, int, float)

#: What is said of a cell that should have a number.
NO_NUMBER = "a number is wanted"


class MissingLabelError(ValueError):
    """There is no label."""


def is_missing(value: object, *, strip: bool) -> bool:
    """Whether a cell holds nothing: no value, an empty text, or, where blanks are stripped, blanks alone."""
    if isinstance(value, str):
        return not (value.strip() if strip else value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_label(value: object) -> str:
    """Return a label as text. A whole number may be stored as a float, as tables do where others are missing.

    Raises:
        ValueError: it is neither a text nor a finite number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, PLAIN) or value in (math.inf, -math.inf):
        raise ValueError(f"a label must be a text or a whole number, got {quote(value)}")
    return str(value)


def read_number(value: object) -> float:
    """Return a real number, which may be written as text.

    Raises:
        ValueError: it is none, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, PLAIN):
        raise ValueError(f"{NO_NUMBER}, got {quote(value)}")
    try:
        number = float(value) if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{NO_NUMBER}, got {quote(value)}")
    return number


def normalize_label(label: str, format: LabelFormat) -> str:
    """Return the spelling that stands for a label and all that are equal to it.

    Raises:
        ValueError: nothing is left of it, it is too long, or it holds what the name of a class must not hold.
    """
    if format.normalize:
        label = unicodedata.normalize(format.normalize, label)
    if format.casefold:
        label = unicodedata.normalize("NFD", label).casefold()
        label = unicodedata.normalize(format.normalize or "NFC", label)
    if format.strip:
        label = label.strip()
    if not label:
        raise ValueError("the label is empty")
    if len(label) > MAX_LENGTH:
        raise ValueError(f"a label has at most {MAX_LENGTH:,} characters, got {len(label):,}: {quote(label)}")
    for character in label:
        if what := _FORBIDDEN.get(unicodedata.category(character)):
            raise ValueError(f"a label must not hold {what} (U+{ord(character):04X}), got {quote(label)}")
    return label


@dataclass
class Places:
    """Where something is.

    Attributes:
        first: the locations of the first three rows that have it.
        rows: how many rows have it.
        count: how often it is there; a row may have several labels.
    """

    first: list[str] = field(default_factory=list)
    rows: int = 0
    count: int = 0
    _last: str = ""

    def add(self, location: str) -> None:
        """Add where it is once more, row by row."""
        self.count += 1
        if location != self._last:
            self._last = location
            self.rows += 1
            self.first += [location] if len(self.first) < _FIRST else []

    def __str__(self) -> str:
        more = f" and {self.rows - _FIRST:,} more" if self.rows > _FIRST else ""
        return f"{', '.join(self.first)}{more}"


def describe_changes(task: str, changes: Mapping[tuple[str, str], Places], total: int) -> Iterator[str]:
    """Say which spellings of a task's labels were read as others.

    Args:
        changes: the places of each pair of a spelling and what it was read as.
        total: how many labels there are.
    """
    if changes:
        count = sum(places.count for places in changes.values())
        pairs = [
            f"{_show(before)} as {_show(after)} ({places})"
            for (before, after), places in islice(changes.items(), _SHOWN)
        ]
        more = f", and {len(changes) - _SHOWN:,} more spellings" if len(changes) > _SHOWN else ""
        yield (
            f"task {task}: {count:,} of {total:,} labels are read in another spelling, as tasks.{task}.labels says: "
            f"{', '.join(pairs)}{more}"
        )


def describe_similar(task: str, labels: LabelColumn, locations: Sequence[str], format: LabelFormat) -> Iterator[str]:
    """Say which classes of a task look like one, and what would make them one.

    Args:
        labels: of each row.
        locations: of each row.
    """
    groups: dict[str, list[str]] = {}
    for label in sorted(labels.counts()):
        groups.setdefault(_look(label), []).append(label)
    similar = [group for group in groups.values() if len(group) > 1]
    shown = [group[:_SHOWN] for group in similar[:_SHOWN]]
    places = _find_places(labels, locations, {label for group in shown for label in group})
    for group, told in zip(similar, shown, strict=False):
        classes = " and ".join(f"{_show(label)} ({places[label]})" for label in told)
        yield f"task {task} has classes that look alike: {classes}; {_how_to_merge(task, group, format)}"
    if len(similar) > _SHOWN:
        yield f"task {task} has {len(similar) - _SHOWN:,} more groups of classes that look alike"


def _find_places(labels: LabelColumn, locations: Sequence[str], names: Collection[str]) -> dict[str, Places]:
    """Say where some names are."""
    found = {name: Places() for name in names}
    codes = {labels.names.index(name): name for name in names}
    for entries in labels.entries() if codes else ():
        for code, name in codes.items():
            rows = np.unique(entries.rows[entries.codes == code])
            places = found[name]
            places.first += [locations[row] for row in rows[: _FIRST - len(places.first)].tolist()]
            places.rows += len(rows)
    return found


def _look(label: str) -> str:
    """What is left of a label without what the eye may miss."""
    look = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    look = "".join(character for character in look if unicodedata.category(character) != "Cf")
    look = " ".join(look.split())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", look)


def _how_to_merge(task: str, group: Sequence[str], format: LabelFormat) -> str:
    for change in _MERGING:
        rules = format.model_copy(update=change)
        try:
            merged = {normalize_label(label, rules) for label in group}
        except ValueError:
            continue
        if len(merged) == 1:
            setting = ", ".join(f"{name}: {json.dumps(value)}" for name, value in change.items()).replace('"', "")
            return f"to make them one, set tasks.{task}.labels: {{{setting}}}"
    return "where they should be one, write them alike in the file"


def _show(label: str) -> str:
    """Quote a label so that characters can be told that look alike."""
    shown = quote(label)
    return shown if label == unicodedata.normalize("NFKC", label) else ascii(label[:60])
