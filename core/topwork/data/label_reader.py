"""Read the labels of a task, row by row."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from topwork.data.label_column import RowLabel
from topwork.data.labels import (
    PLAIN,
    MissingLabelError,
    Places,
    describe_changes,
    is_missing,
    normalize_label,
    read_label,
    read_number,
)
from topwork.data.readers import column_missing
from topwork.data.rows import Row
from topwork.errors import enumerate_names, quote
from topwork.experiment.label_format import LabelColumns
from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels
from topwork.registry import discover

#: How many spellings of names are remembered with what was made of them.
_REMEMBERED = 10_000

_YES_OR_NO = {"0": False, "1": True, "false": False, "true": True}


class LabelReader:
    """Reads the labels of one task, and notes which of them are not as they were written.

    Attributes:
        space: how labels are read, which the first of them that is used decides.
    """

    def __init__(self, task: str, columns: LabelColumns) -> None:
        self.task = task
        self.columns = columns
        self._strip = columns.format.strip  # looked up once, as it is needed in every row
        self.space: type[LabelSpace] | None = None
        self._types: dict[str, type] = {}  # of the values of each column
        self._changes: dict[tuple[str, str], Places] = {}
        self._read_before: dict[object, tuple[str, str]] = {}  # of values, as text and as a name
        self._changed: list[tuple[str, str]] = []  # in the row that was read last
        self._kept = False  # whether any label is used
        self._named = 0  # names in the row that was read last
        self._total = 0  # names in all rows
        self.renamed: set[str] = set()  # the names that ``rename`` gave others to

    def read(self, row: Row, *, words: int | None = None, optional: bool = False) -> RowLabel:
        """Return the label of a row.

        Args:
            words: how many words its text is divided into; None where it is not, or could not be read.
            optional: whether a row without the columns is one without a label, as in JSON.

        Raises:
            MissingLabelError: it has none.
            ValueError: it is not as its label space wants it; says in which columns.
        """
        self._changed, self._named = [], 0
        try:
            cells = {name: row[name] for name in self.columns.names}
        except KeyError:
            raise self._absent(row, optional) from None
        empty = [name for name, cell in cells.items() if is_missing(cell, strip=self._strip)]
        if len(empty) == len(cells):
            what = "missing" if all(not isinstance(cell, str) for cell in cells.values()) else "empty"
            raise MissingLabelError(f"{', '.join(empty)}: the label is {what}")
        if empty:
            raise ValueError(f"{', '.join(empty)}: empty, but {next(n for n in cells if n not in empty)} is not")
        if self.space is None or not self._kept:  # a row that is faulty otherwise decides nothing
            self.space, self._types = self._choose_space(cells), {}
        if self.space is WordLabels:
            ((column, cell),) = cells.items()
            return self._read_of_words(column, cell, words)
        return self._read_as(self.space, cells)

    def _absent(self, row: Row, optional: bool) -> ValueError:
        absent = [name for name in self.columns.names if name not in row]
        if optional and len(absent) == len(self.columns.names):
            return MissingLabelError(f"{', '.join(absent)}: {column_missing(absent[0], row)}")
        return ValueError("\n".join(f"{name}: {column_missing(name, row)}" for name in absent))

    def keep(self, location: str) -> None:
        """Note that the label read last is used, and where it stands."""
        self._kept = True
        self._total += self._named
        for change in self._changed:
            self._changes.setdefault(change, Places()).add(location)

    def describe_changes(self) -> Iterator[str]:
        """Say which labels are not as they were written."""
        return describe_changes(self.task, self._changes, self._total)

    def _choose_space(self, cells: Mapping[str, Any]) -> type[LabelSpace]:
        """Return the label space that the first label fits, of those that the head takes.

        Raises:
            ValueError: there is none.
        """
        spaces = self.columns.spaces
        if len(cells) > 1:
            fitting = [space for space in spaces if space not in (Classes, WordLabels)]
        elif any(isinstance(cell, Mapping) for cell in cells.values()):
            fitting = [space for space in spaces if space is Distribution]
        elif any(isinstance(cell, list | tuple) for cell in cells.values()):
            fitting = [space for space in spaces if space in (LabelSet, WordLabels)]
        else:
            fitting = [space for space in spaces if space is not Distribution]
        if not fitting:
            only = next(iter(cells.values()))
            what = f"{len(cells)} columns" if len(cells) > 1 else quote(only)
            lists = f"; for lists use head {heads_for(LabelSet, WordLabels)}" if isinstance(only, list | tuple) else ""
            raise ValueError(
                f"{', '.join(cells)}: head {self.columns.head} takes {describe_spaces(spaces)}, got {what}{lists}"
            )
        return fitting[0]

    def _read_as(self, space: type[LabelSpace], cells: Mapping[str, Any]) -> RowLabel:
        if space is Numbers:
            return tuple([_in_column(name, read_number, cell) for name, cell in cells.items()])
        if space is Distribution:
            return _read_shares(cells, self._read_name)
        if space is LabelSet and len(cells) > 1:
            return tuple(self._read_name(name, name) for name, cell in cells.items() if _in_column(name, _is_set, cell))
        ((column, cell),) = cells.items()
        if space is LabelSet:
            return tuple(dict.fromkeys(self._read_name(column, item) for item in self._items_of(cell)))
        return self._read_name(column, cell)

    def _read_of_words(self, column: str, cell: Any, words: int | None) -> tuple[str | None, ...]:
        """Return the class of each word.

        Raises:
            MissingLabelError: no word has one.
            ValueError: there are more or fewer than words, or some are none.
        """
        separator = self.columns.format.separator
        items = cell.split() if isinstance(cell, str) and not separator else self._items_of(cell)
        if words is not None and len(items) != words:
            raise ValueError(f"{column}: {len(items)} labels for {words} words")
        missing = [number for number, item in enumerate(items, 1) if is_missing(item, strip=self._strip)]
        if len(missing) == len(items) or (missing and self.columns.missing == "error"):
            which = "none has one" if len(missing) == len(items) else f"word {missing[0]} has none"
            raise MissingLabelError(f"{column}: of the labels of {len(items)} words, {which}")
        return tuple(
            None if number in missing else self._read_name(column, item) for number, item in enumerate(items, 1)
        )

    def _items_of(self, cell: Any) -> list[Any]:
        if isinstance(cell, list | tuple):
            return list(cell)
        separator = self.columns.format.separator
        return cell.split(separator) if separator and isinstance(cell, str) else [cell]

    def _read_name(self, column: str, value: object) -> str:
        """Return the name of a class or label.

        Raises:
            ValueError: it is none, or of another type than those above.
        """
        kind = int if isinstance(value, float) else type(value)
        known = (kind, value, column)
        read = self._read_before.get(known) if isinstance(value, PLAIN) else None
        if read is None:
            read = self._read_new_name(column, value, kind)
            if len(self._read_before) < _REMEMBERED:
                self._read_before[known] = read
        elif kind is not self._types.setdefault(column, kind):
            raise self._other_type(column, value, kind)
        written, name = read
        if name != written:
            self._changed.append(read)
        self._named += 1
        format = self.columns.format
        if name in format.rename:
            self.renamed.add(name)
        name = format.rename.get(name, name)
        if format.order is not None and name not in format.order:
            raise ValueError(
                f"{column}: label {quote(name)} is not in labels.order, which has {enumerate_names(format.order)}"
            )
        return name

    def _read_new_name(self, column: str, value: object, kind: type) -> tuple[str, str]:
        """Return a label as text, and the name that this is a spelling of."""
        written: str = _in_column(column, read_label, value)
        if kind is not self._types.setdefault(column, kind):
            raise self._other_type(column, value, kind)
        return written, _in_column(column, lambda label: normalize_label(label, self.columns.format), written)

    def _other_type(self, column: str, value: object, kind: type) -> ValueError:
        expected = self._types[column].__name__
        return ValueError(
            f"{column}: labels above are of type {expected}, but {quote(value)} is of type {kind.__name__}"
        )


def heads_for(*spaces: type[LabelSpace]) -> str:
    """Name the installed heads that take one of some label spaces."""
    heads = discover().heads.plugins.items()
    return enumerate_names([kind for kind, head in heads if set(spaces) & set(head.config.label_spaces)]) or "(none)"


def describe_spaces(spaces: tuple[type[LabelSpace], ...]) -> str:
    """Say in words which labels a head takes."""
    words = {
        Classes: "one of several classes",
        LabelSet: "sets of labels",
        Numbers: "numbers",
        Distribution: "shares of classes",
        WordLabels: "one class for each word",
    }
    return " or ".join(words[space] for space in spaces)


def _in_column(column: str, read: Any, value: object) -> Any:
    """Read a value, and say in which column it is where it cannot be read."""
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None


def _is_set(cell: object) -> bool:
    """Whether a label's own column says that a row has it.

    Raises:
        ValueError: it says something else.
    """
    written = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip().lower()
    if written not in _YES_OR_NO:
        raise ValueError(f"a label's own column must be 0 or 1, got {quote(cell)}")
    return _YES_OR_NO[written]


def _read_shares(cells: Mapping[str, Any], read_name: Any) -> dict[str, float]:
    """Return shares of classes that sum to 1, from an object of JSON or from a column for each class.

    Raises:
        ValueError: one is no number from 0, or all are 0.
    """
    first = next(iter(cells))
    written = cells if len(cells) > 1 else cells[first]
    if not isinstance(written, Mapping):
        raise ValueError(f'{first}: shares must be an object such as {{"yes": 2, "no": 1}}, got {quote(written)}')
    shares: dict[str, float] = {}
    for name, value in written.items():
        column = name if len(cells) > 1 else first
        share = _in_column(column, read_number, value)
        if share < 0:
            raise ValueError(f"{column}: a share must be a number from 0, got {quote(value)}")
        label = read_name(column, name)
        shares[label] = shares.get(label, 0.0) + share
    total = math.fsum(shares.values())
    if not total > 0:
        raise ValueError(f"{', '.join(cells)}: the shares of a row must not all be 0")
    return {name: share / total for name, share in shares.items()}
