"""The sequences that an encoder reads, and what of their results heads read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged, no_sequences, sequences_of
from topwork.engine.encoding.store.digests import SIZE, Digests
from topwork.engine.model.prefix import Cut
from topwork.mapped import AT_ONCE, ArrayWriter


@dataclass(frozen=True)
class Sequences:
    """U sequences of token ids, and what heads read of each: its pooled vector, or words, or both.

    Attributes:
        token_ids: of each.
        pooled: (U,), whether a head reads its pooled vector.
        word_starts: of each, the places of the first tokens of its words; none where no head reads its words.
    """

    token_ids: Ragged
    pooled: Bool[Tensor, " U"]
    word_starts: Ragged

    @classmethod
    def of_texts(cls, token_ids: Ragged) -> "Sequences":
        """Return sequences of which heads read the pooled vector."""
        return cls(token_ids, torch.ones(len(token_ids), dtype=torch.bool), no_sequences(len(token_ids)))

    def __len__(self) -> int:
        """U."""
        return len(self.token_ids)

    @property
    def lengths(self) -> Int[Tensor, " U"]:
        """How many tokens each has."""
        return self.token_ids.lengths

    def take(self, rows: Int[Tensor, " B"]) -> "Sequences":
        """Return the sequences ``rows`` (B,), in that order."""
        if len(rows) == len(self) and _are_all(rows):
            return self
        return Sequences(self.token_ids.take(rows), self.pooled[rows], self.word_starts.take(rows))

    def count_vectors(self, cut: Cut, rows: Int[Tensor, " B"]) -> int:
        """Return how many vectors a cut keeps of the sequences ``rows`` (B,), all together."""
        rest = self.token_ids if cut.keeps_every_token else self.word_starts
        some = rows.split(AT_ONCE)
        return sum(int(self.leading(cut, part).sum()) + int(rest.lengths_of(part).sum()) for part in some)

    def vectors_kept(self, cut: Cut) -> Int[Tensor, " U"]:
        """How many vectors a cut keeps of each: of every token, or of what heads read."""
        return self.leading(cut) + (self.lengths if cut.keeps_every_token else self.word_starts.lengths)

    def leading(self, cut: Cut, rows: Int[Tensor, " B"] | None = None) -> Int[Tensor, " _B"]:
        """How many vectors a cut keeps of each before those of tokens or words; of all, or of ``rows`` (B,).

        None where no head reads it as a whole; but those of layers in any case.
        """
        pooled = self.pooled if rows is None else self.pooled[rows]
        return (pooled | (cut.layers > 0)) * cut.leading

    def word_places(self, cut: Cut) -> Ragged:
        """Return the places of the words of each among the vectors that a cut keeps of it."""
        if not len(self.word_starts.values):
            return self.word_starts
        counts, leading = self.word_starts.lengths, self.leading(cut)
        if cut.keeps_every_token:
            return Ragged(self.word_starts.values + leading.repeat_interleave(counts), self.word_starts.offsets)
        first = (self.word_starts.offsets[:-1] - leading).repeat_interleave(counts)
        return Ragged(torch.arange(int(counts.sum())) - first, self.word_starts.offsets)

    def digests(self, cut: Cut) -> Digests:
        """Return sha256 of what decides what a cut keeps of each: of its token ids, where no head reads its words."""
        if cut.keeps_every_token or (bool(self.pooled.all()) and not len(self.word_starts.values)):
            return self._digests_of_ids
        return self._digests_of_readings

    @cached_property
    def _digests_of_ids(self) -> Digests:
        return _collect(hashlib.sha256(token_ids).digest() for token_ids in sequences_of(self.token_ids))

    @cached_property
    def _digests_of_readings(self) -> Digests:
        return _collect(self._readings())

    def _readings(self) -> Iterator[bytes]:
        """Yield sha256 of the token ids of each, and of what heads read of it, where that is not the whole alone."""
        sequences = zip(self.pooled, sequences_of(self.token_ids), sequences_of(self.word_starts), strict=True)
        for pooled, token_ids, starts in sequences:
            digest = hashlib.sha256(token_ids)
            if starts or not pooled:
                digest.update(b"pooled and words" if pooled else b"words")
                digest.update(starts)
            yield digest.digest()


def _are_all(rows: Int[Tensor, " U"]) -> bool:
    """Whether rows are 0, 1, 2 and so on."""
    starts = range(0, len(rows), AT_ONCE)
    parts = zip(starts, rows.split(AT_ONCE), strict=True)
    return all(torch.equal(part, torch.arange(start, start + len(part))) for start, part in parts)


def _collect(digests: Iterator[bytes]) -> Digests:
    writer = ArrayWriter(np.uint8, (SIZE,))
    while some := b"".join(islice(digests, AT_ONCE)):
        writer.append(np.frombuffer(some, np.uint8).reshape(-1, SIZE))
    return Digests(writer.finish())
