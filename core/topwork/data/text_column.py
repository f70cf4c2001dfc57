"""The texts of rows, one after another in memory that a file stands behind."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from topwork import mapped
from topwork.data.row_values import PART, Rows, RowValues, some_of
from topwork.data.texts import Text, Words, parts_of
from topwork.mapped import ArrayWriter

#: Bytes that no UTF-8 has: one of the first two begins a text that has parts, and the last ends each part.
_WORDS, _PAIR, _END = b"\xfe", b"\xff", b"\xff"

#: Texts are written once they have as many bytes.
_MANY_BYTES = 1024 * 1024


def to_bytes(text: Text) -> bytes:
    """Return bytes that are equal for equal texts alone, and tell a text, a pair and words apart.

    Raises:
        UnicodeEncodeError: the text holds half a character.
    """
    if isinstance(text, str):
        return text.encode()
    mark = _WORDS if isinstance(text, Words) else _PAIR
    return mark + b"".join(part.encode() + _END for part in parts_of(text))


def from_bytes(content: bytes | memoryview) -> Text:
    """Return the text that ``to_bytes`` was given."""
    if not content or content[0] < _WORDS[0]:
        return str(content, "utf-8")
    parts = tuple(part.decode() for part in bytes(content[1:]).split(_END)[:-1])
    return Words(parts) if content[0] == _WORDS[0] else (parts[0], parts[1])


class Texts(RowValues[Text]):
    """N texts, pairs of them, or texts that are divided into words.

    Attributes:
        stores: the bytes of texts, each of what was read together; they count as one after another.
        starts, lengths: (N,), where a text begins in them, and how many bytes it has.
    """

    def __init__(
        self, stores: tuple[NDArray[np.uint8], ...], starts: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> None:
        self.stores = stores
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def of(cls, texts: Iterable[Text]) -> "Texts":
        """Store some texts."""
        writer = TextsWriter()
        for text in texts:
            writer.append(text)
        return writer.finish()

    @classmethod
    def join(cls, parts: Sequence["Texts"]) -> "Texts":
        """Put some texts after others; nothing but their places is copied."""
        stores = tuple(store for part in parts for store in part.stores)
        starts = mapped.zeros(sum(map(len, parts)), np.int64)
        lengths = mapped.zeros(len(starts), np.int32)
        row = size = 0
        for part in parts:
            rows = slice(row, row + len(part))
            np.add(part.starts, size, out=starts[rows])
            lengths[rows] = part.lengths
            row, size = rows.stop, size + sum(map(len, part.stores))
        return cls(stores, starts, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: Rows) -> "Texts":
        """Return some of the texts; nothing but their places is copied."""
        return Texts(self.stores, some_of(self.starts, rows), some_of(self.lengths, rows))

    def read(self) -> list[Text]:
        """Make all, which should be few."""
        return [from_bytes(content) for content in self.contents()]

    def contents(self) -> Iterator[memoryview]:
        """Go through the bytes of each text; see ``to_bytes``."""
        firsts = [0, *accumulate(map(len, self.stores))][:-1]  # where each store begins
        views = [store.data for store in self.stores]
        for start in range(0, len(self), PART):
            places, lengths = self.starts[start : start + PART], self.lengths[start : start + PART].tolist()
            if len(views) == 1:
                view = views[0]
                yield from [view[at : at + size] for at, size in zip(places.tolist(), lengths, strict=True)]
                continue
            of = np.searchsorted(firsts, places, "right").tolist()
            for at, size, number in zip(places.tolist(), lengths, of, strict=True):
                at -= firsts[number - 1]
                yield views[number - 1][at : at + size]


class TextsWriter:
    """Stores texts, as they come."""

    def __init__(self) -> None:
        self._store = ArrayWriter(np.uint8)
        self._starts, self._lengths = ArrayWriter(np.int64), ArrayWriter(np.int32)
        self._pending: list[bytes] = []
        self._size = 0  # of what is pending

    def append(self, text: Text) -> None:
        """Add a text.

        Raises:
            StorageError: the disk has no room for it.
        """
        content = to_bytes(text)
        self._pending.append(content)
        self._size += len(content)
        if len(self._pending) == PART or self._size > _MANY_BYTES:
            self._flush()

    def finish(self) -> Texts:
        """Return all texts. Nothing can be added any more."""
        self._flush()
        return Texts((self._store.finish(),), self._starts.finish(), self._lengths.finish())

    def _flush(self) -> None:
        lengths = np.fromiter(map(len, self._pending), np.int32, len(self._pending))
        self._starts.append(self._store.count + np.cumsum(lengths, dtype=np.int64) - lengths)
        self._lengths.append(lengths)
        self._store.append(np.frombuffer(b"".join(self._pending), np.uint8))
        self._pending, self._size = [], 0
