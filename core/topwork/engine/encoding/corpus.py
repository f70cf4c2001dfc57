"""Texts to token ids, equal texts once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.data.texts import Text, parts_of
from topwork.engine.encoding.ragged import Ragged, offsets_of, sequences_of
from topwork.engine.encoding.truncation import Shortener
from topwork.engine.model.plan import CorpusSize
from topwork.experiment.schema import SplitName
from topwork.interfaces.head import Reading


@dataclass(frozen=True)
class Corpus:
    """The texts of all splits as token ids, each distinct sequence once.

    Attributes:
        token_ids: U distinct sequences.
        text_ids: for each split, (N, 1) or (N, 3) int64, which sequences each row has: its text, or its pair as one
            sequence; and the first and second text of a pair that is read apart. -1 where no head reads one.
        truncated: for each split, which of these were truncated, in the same places.
    """

    token_ids: Ragged
    text_ids: dict[SplitName, Int[Tensor, "N _"]]
    truncated: dict[SplitName, Bool[Tensor, "N _"]]

    @property
    def size(self) -> CorpusSize:
        """How much there is to read."""
        every = torch.cat([text_ids[text_ids >= 0] for text_ids in self.text_ids.values()])
        lengths = self.token_ids.lengths
        return CorpusSize(
            texts=len(every),
            tokens=int(lengths[every].sum()),
            distinct_texts=len(lengths),
            distinct_tokens=len(self.token_ids.values),
            truncated=sum(int(truncated.sum()) for truncated in self.truncated.values()),
        )

    @cached_property
    def digests(self) -> list[bytes]:
        """sha256 of the token ids of each distinct sequence."""
        return [hashlib.sha256(sequence).digest() for sequence in sequences_of(self.token_ids)]


def make_corpus(tokenizer: Tokenizer, texts: Mapping[SplitName, Sequence[Sequence[Text | None]]]) -> Corpus:
    """Tokenize the texts of all splits and bring equal sequences together.

    Args:
        texts: of each split, one or three columns of N texts, as ``texts_to_read`` gives them.
    """
    id_of: dict[bytes, int] = {}
    text_ids: dict[SplitName, Tensor] = {}
    truncated: dict[SplitName, Tensor] = {}
    for split, columns in texts.items():
        text_ids[split] = torch.full((len(columns[0]), len(columns)), -1)
        truncated[split] = torch.zeros(text_ids[split].shape, dtype=torch.bool)
        for number, column in enumerate(columns):
            token_ids, too_long = tokenize(tokenizer, [text for text in column if text is not None])
            ids = [id_of.setdefault(sequence, len(id_of)) for sequence in sequences_of(token_ids)]
            there = torch.tensor([text is not None for text in column])
            text_ids[split][there, number] = torch.tensor(ids, dtype=torch.int64)
            truncated[split][there, number] = too_long
    values = torch.frombuffer(bytearray(b"".join(id_of)), dtype=torch.int64)
    distinct = Ragged(values, offsets_of(torch.tensor([len(ids) // 8 for ids in id_of])))
    return Corpus(distinct, text_ids, truncated)


def texts_to_read(rows: DataSplit, reads: Mapping[str, Reading]) -> list[list[Text | None]]:
    """Return the texts, or pairs as one sequence, that heads read of N rows.

    After them come, where some head reads them apart, the first and the second texts of pairs. None stands where no
    head with a label reads one.
    """
    apart, together = torch.zeros(len(rows.texts), dtype=torch.bool), torch.zeros(len(rows.texts), dtype=torch.bool)
    for task, labelled in rows.labelled.items():
        (apart if reads[task] == "two pooled" else together).logical_or_(torch.from_numpy(labelled))
    if not rows.labelled:  # the texts are to be encoded, for no head
        together.fill_(True)
    columns: list[list[Text | None]] = [
        [text if wanted else None for text, wanted in zip(rows.texts, together.tolist(), strict=True)]
    ]
    if apart.any():
        pairs = [parts_of(text) if wanted else None for text, wanted in zip(rows.texts, apart.tolist(), strict=True)]
        columns += [[pair[number] if pair else None for pair in pairs] for number in (0, 1)]
    return columns


def tokenize(tokenizer: Tokenizer, texts: Sequence[Text]) -> tuple[Ragged, Bool[Tensor, " N"]]:
    """Return the token ids of N texts, or of pairs as one sequence each, and which of them were truncated."""
    shortener = Shortener(tokenizer)
    ids: list[Tensor] = []
    truncated: list[bool] = []
    for start in range(0, len(texts), 1000):  # in parts, since an encoding takes far more memory than its ids
        part = [_shortened(text, shortener) for text in texts[start : start + 1000]]
        for encoding in tokenizer.encode_batch_fast(part):
            ids.append(torch.tensor(encoding.ids))
            truncated.append(bool(encoding.overflowing))
    lengths = torch.tensor([len(sequence) for sequence in ids], dtype=torch.int64)
    return Ragged(torch.cat(ids) if ids else lengths, offsets_of(lengths)), torch.tensor(truncated, dtype=torch.bool)


def _shortened(text: Text, shortener: Shortener) -> Text:
    if isinstance(text, str):
        return shortener.shorten(text)
    return shortener.shorten(text[0]), shortener.shorten(text[1])
