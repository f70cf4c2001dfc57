"""Which of many texts are equal, told by digests of 16 bytes, so that none of the texts is held."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from topwork import mapped
from topwork.data.row_values import PART
from topwork.data.text_column import Texts, to_bytes
from topwork.data.texts import Text
from topwork.mapped import ArrayWriter


def digests_of(columns: Iterable[Sequence[Text]]) -> NDArray[np.uint64]:
    """Return a digest of each text, (N, 2), of some texts after others."""
    writer = ArrayWriter(np.uint64, (2,))
    for texts in columns:
        contents = texts.contents() if isinstance(texts, Texts) else map(to_bytes, texts)
        digests = (hashlib.blake2b(content, digest_size=16).digest() for content in contents)
        while part := b"".join(islice(digests, PART)):
            writer.append(np.frombuffer(part, np.uint64).reshape(-1, 2))
    return writer.finish()


def first_rows(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each of N digests (N, 2) the number of the first that is equal to it, (N,)."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # equal ones stay in their order
    found = mapped.zeros(len(digests), np.int64)
    first, last = -1, np.zeros(2, np.uint64)
    for start in range(0, len(order), PART):
        rows = order[start : start + PART]
        sorted_digests = digests[rows]
        differs = (sorted_digests != np.concatenate([last[None], sorted_digests[:-1]])).any(axis=1)
        differs[0] |= start == 0
        begins = np.maximum.accumulate(np.where(differs, np.arange(len(rows)), -1))
        found[rows] = np.where(begins < 0, first, rows[begins])
        first, last = int(found[rows[-1]]), sorted_digests[-1]
    return found


def count_distinct(first: NDArray[np.int64], size: int) -> int:
    """Return how many different texts some rows have.

    Args:
        first: of each row, the number of the first that has the same text.
        size: how many rows there are in all.
    """
    met = np.zeros(size, np.bool_)
    met[first] = True
    return int(met.sum())
