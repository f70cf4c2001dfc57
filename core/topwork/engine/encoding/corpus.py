"""Texts to token ids, equal texts once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged, offsets_of, sequences_of
from topwork.engine.encoding.truncation import Shortener
from topwork.engine.model.plan import CorpusSize
from topwork.experiment.schema import SplitName


@dataclass(frozen=True)
class Corpus:
    """The texts of all splits as token ids, each distinct sequence once.

    Attributes:
        token_ids: U distinct sequences.
        text_ids: for each split, (N,) int64, which sequence each row has.
        truncated: how many of all rows were truncated.
    """

    token_ids: Ragged
    text_ids: dict[SplitName, Int[Tensor, " N"]]
    truncated: int

    @property
    def size(self) -> CorpusSize:
        """How much there is to read."""
        rows = torch.cat(list(self.text_ids.values()))
        lengths = self.token_ids.lengths
        return CorpusSize(
            texts=len(rows),
            tokens=int(lengths[rows].sum()),
            distinct_texts=len(lengths),
            distinct_tokens=len(self.token_ids.values),
            truncated=self.truncated,
        )

    @cached_property
    def digests(self) -> list[bytes]:
        """sha256 of the token ids of each distinct sequence."""
        return [hashlib.sha256(sequence).digest() for sequence in sequences_of(self.token_ids)]


def make_corpus(tokenizer: Tokenizer, texts: Mapping[SplitName, Sequence[str]]) -> Corpus:
    """Tokenize the texts of all splits and bring equal sequences together."""
    id_of: dict[bytes, int] = {}
    text_ids: dict[SplitName, Tensor] = {}
    truncated = 0
    for split, of_split in texts.items():
        token_ids, too_long = tokenize(tokenizer, of_split)
        text_ids[split] = torch.tensor([id_of.setdefault(ids, len(id_of)) for ids in sequences_of(token_ids)])
        truncated += too_long
    values = torch.frombuffer(bytearray(b"".join(id_of)), dtype=torch.int64)
    distinct = Ragged(values, offsets_of(torch.tensor([len(ids) // 8 for ids in id_of])))
    return Corpus(distinct, text_ids, truncated)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Ragged, int]:
    """Return the token ids of N texts, and how many texts were truncated."""
    shortener = Shortener(tokenizer)
    ids: list[Tensor] = []
    truncated = 0
    for start in range(0, len(texts), 1000):  # in parts, since an encoding takes far more memory than its ids
        for encoding in tokenizer.encode_batch_fast(list(map(shortener.shorten, texts[start : start + 1000]))):
            ids.append(torch.tensor(encoding.ids))
            truncated += bool(encoding.overflowing)
    return Ragged(torch.cat(ids), offsets_of(torch.tensor([len(sequence) for sequence in ids]))), truncated
