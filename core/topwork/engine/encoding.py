"""Texts to token ids, and token ids to activations, exactly.

On the CPU a text's activation is the same to the last bit whatever else is encoded with it, because texts
are encoded in batches of equal length, without padding, and with at least 64 token rows: below that, torch's
matrix kernels change with the number of rows.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from topwork.engine.model import MultiTaskModel
from topwork.errors import ConfigurationError
from topwork.experiment.schema import SplitName
from topwork.parts import FLOOR

#: Token rows per batch: large enough to keep the cores busy, small enough to stay near the caches.
BUDGET = 4096

#: Called with the number of tokens done since the last call.
Progress = Callable[[int], None]


def no_progress(done: int) -> None:
    """Show nothing."""


class Activations(Protocol):
    """What the loop trains from."""

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""


@dataclass(frozen=True)
class Ragged:
    """N sequences of different lengths, end to end, without padding.

    Attributes:
        values: (total length, ...).
        offsets: (N + 1,) int64; sequence i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """(N,) int64."""
        return self.offsets.diff()

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sequences ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        positions = torch.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        index = (starts[:, None] + positions).masked_fill(~mask, 0)
        return self.values[index], mask

    def take(self, rows: Tensor) -> "Ragged":
        """Return the sequences ``rows`` (B,), in that order."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = offsets_of(lengths)
        index = torch.arange(int(offsets[-1])) + (starts - offsets[:-1]).repeat_interleave(lengths)
        return Ragged(self.values[index], offsets)


@dataclass(frozen=True)
class Shared:
    """Activations of N rows, of which those with equal texts share one.

    Attributes:
        distinct: the activations of the distinct texts.
        of: (N,) int64, which of them each row has.
    """

    distinct: Activations
    of: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cut keeps for ``rows`` (B,) in float32, padded to (B, T, ...), and the mask (B, T)."""
        values, mask = self.distinct.batch(self.of[rows])
        return values.float() if values.is_floating_point() else values, mask


@dataclass(frozen=True)
class Corpus:
    """The texts of all splits as token ids, each distinct sequence once.

    Attributes:
        token_ids: U distinct sequences.
        of: for each split, (N,) int64, which sequence each row has.
        truncated: how many of all rows were truncated.
    """

    token_ids: Ragged
    of: dict[SplitName, Tensor]
    truncated: int

    @property
    def rows(self) -> int:
        """How many rows there are in all splits."""
        return sum(len(rows) for rows in self.of.values())

    @property
    def tokens(self) -> int:
        """How many tokens all rows have, special tokens included."""
        return sum(int(self.token_ids.lengths[rows].sum()) for rows in self.of.values())

    @cached_property
    def digests(self) -> list[bytes]:
        """sha256 of the token ids of each distinct sequence."""
        return [hashlib.sha256(sequence).digest() for sequence in sequences_of(self.token_ids)]


def make_corpus(tokenizer: Tokenizer, texts: Mapping[SplitName, Sequence[str]]) -> Corpus:
    """Tokenize the texts of all splits and bring equal sequences together."""
    number_of: dict[bytes, int] = {}
    of: dict[SplitName, Tensor] = {}
    truncated = 0
    for name, part in texts.items():
        ids, cut = tokenize(tokenizer, part)
        of[name] = torch.tensor([number_of.setdefault(sequence, len(number_of)) for sequence in sequences_of(ids)])
        truncated += cut
    values = torch.frombuffer(bytearray(b"".join(number_of)), dtype=torch.int64)
    return Corpus(Ragged(values, offsets_of(torch.tensor([len(ids) // 8 for ids in number_of]))), of, truncated)


def sequences_of(token_ids: Ragged) -> Iterator[bytes]:
    """Yield the ids of each sequence as the bytes of little-endian int64."""
    values, bounds = token_ids.values.numpy().astype("<i8"), token_ids.offsets.tolist()
    return (values[start:end].tobytes() for start, end in pairwise(bounds))


def offsets_of(lengths: Tensor) -> Tensor:
    """Turn lengths (N,) into offsets (N + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Ragged, int]:
    """Return the token ids of N texts, and how many texts were truncated."""
    ids: list[Tensor] = []
    truncated = 0
    for start in range(0, len(texts), 1000):  # in parts, since an encoding takes far more memory than its ids
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + 1000])):
            ids.append(torch.tensor(encoding.ids))
            truncated += bool(encoding.overflowing)
    return Ragged(torch.cat(ids), offsets_of(torch.tensor([len(sequence) for sequence in ids]))), truncated


def encode(
    model: MultiTaskModel,
    token_ids: Ragged,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> Ragged:
    """Run the prefix over N texts and return, on the CPU, what the cut keeps of each.

    With an empty prefix that is the token ids themselves.
    """
    if model.cut.keeps == "token ids":
        return token_ids
    offsets = token_ids.offsets if model.cut.keeps == "tokens" else torch.arange(len(token_ids.offsets))
    values: Tensor | None = None
    for rows, activations in encode_batches(model, token_ids, device=device, dtype=dtype, progress=progress):
        if values is None:
            values = activations.new_empty(int(offsets[-1]), activations.shape[-1])
        index = offsets[rows][:, None] + torch.arange(activations.shape[1])
        values[index] = activations
    assert values is not None, "there is always a text to encode"
    return Ragged(values, offsets)


def encode_batches(
    model: MultiTaskModel,
    token_ids: Ragged,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = no_progress,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, by length, the numbers (B,) of some texts and what the cut keeps of them, (B, T or 1, D or W).

    Raises:
        ConfigurationError: activations are too large for float16.
    """
    model.eval()
    lengths = token_ids.lengths
    for length in lengths.unique().tolist():
        same_length = (lengths == length).nonzero()[:, 0]
        for rows in same_length.split(max(1, BUDGET // length)):
            activations = _encode_batch(model, token_ids, rows, length, device)
            kept = activations.to("cpu", dtype)
            if dtype == torch.float16 and not kept.isfinite().all():
                raise ConfigurationError(
                    f"training.activation_dtype: float16 holds numbers up to 65,504, but activations reach "
                    f"{float(activations.abs().max()):,.0f}; set bfloat16 or float32"
                )
            yield rows, kept
            progress(len(rows) * length)


def _encode_batch(model: MultiTaskModel, token_ids: Ragged, rows: Tensor, length: int, device: torch.device) -> Tensor:
    """Encode texts of one length, repeating the first where they are too few for the floor."""
    missing = -(-FLOOR // length) - len(rows)
    repeated = torch.cat([rows, rows[:1].expand(missing)]) if missing > 0 else rows
    index = token_ids.offsets[repeated][:, None] + torch.arange(length)
    ids = token_ids.values[index].to(device)  # (B, length)
    return model.prefix(ids, torch.ones_like(ids, dtype=torch.bool))[: len(rows)]


@dataclass(frozen=True)
class Recomputed:
    """Activations that are not kept: each batch is encoded when it is asked for, to the same bits."""

    model: MultiTaskModel
    token_ids: Ragged
    device: torch.device
    dtype: torch.dtype = torch.float32

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        training = self.model.training
        activations = encode(self.model, self.token_ids.take(rows), device=self.device, dtype=self.dtype)
        self.model.train(training)
        return activations.batch(torch.arange(len(rows)))
