"""The sequences that an encoder reads, and what of their results heads read."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged, sequences_of
from topwork.engine.model.prefix import Cut


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
        count = len(token_ids.lengths)
        none = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(count + 1, dtype=torch.int64))
        return cls(token_ids, torch.ones(count, dtype=torch.bool), none)

    @property
    def lengths(self) -> Int[Tensor, " U"]:
        """How many tokens each has."""
        return self.token_ids.lengths

    def take(self, rows: Int[Tensor, " B"]) -> "Sequences":
        """Return the sequences ``rows`` (B,), in that order."""
        return Sequences(self.token_ids.take(rows), self.pooled[rows], self.word_starts.take(rows))

    def vectors_kept(self, cut: Cut) -> Int[Tensor, " U"]:
        """How many vectors a cut keeps of each: of every token, or of what heads read."""
        return self.leading(cut) + (self.lengths if cut.keeps_every_token else self.word_starts.lengths)

    def leading(self, cut: Cut) -> Int[Tensor, " U"]:
        """How many vectors a cut keeps of each before those of tokens or words.

        None where no head reads it as a whole; but those of layers in any case.
        """
        return (self.pooled | (cut.layers > 0)) * cut.leading

    def word_places(self, cut: Cut) -> Ragged:
        """Return the places of the words of each among the vectors that a cut keeps of it."""
        counts, leading = self.word_starts.lengths, self.leading(cut)
        if cut.keeps_every_token:
            return Ragged(self.word_starts.values + leading.repeat_interleave(counts), self.word_starts.offsets)
        first = (self.word_starts.offsets[:-1] - leading).repeat_interleave(counts)
        return Ragged(torch.arange(int(counts.sum())) - first, self.word_starts.offsets)

    def digests(self, cut: Cut) -> list[bytes]:
        """Return sha256 of what decides what a cut keeps of each: of its token ids, where no head reads its words."""
        starts = list(sequences_of(self.word_starts))
        whole = [] if cut.keeps_every_token else self.pooled.tolist()
        digests = []
        for number, token_ids in enumerate(sequences_of(self.token_ids)):
            digest = hashlib.sha256(token_ids)
            if whole and (starts[number] or not whole[number]):
                digest.update(b"pooled and words" if whole[number] else b"words")
                digest.update(starts[number])
            digests.append(digest.digest())
        return digests
