"""Texts to token ids, and token ids to activations, exactly.

On the CPU a text's activation is the same to the last bit whatever else is encoded with it, because texts
are encoded in batches of equal length, without padding, and with at least 64 token rows: below that, torch's
matrix kernels change with the number of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from topwork.engine.model import MultiTaskModel

#: Token rows below which matrix kernels differ by 3e-6 from one batch size to the next (torch 2.13, CPU).
FLOOR = 64

#: Token rows per batch: large enough to keep the cores busy, small enough to stay near the caches.
BUDGET = 4096

#: Called with the number of texts done since the last call.
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
        lengths = self.lengths[rows]
        positions = torch.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        index = (self.offsets[rows][:, None] + positions).masked_fill(~mask, 0)
        return self.values[index], mask

    def take(self, rows: Tensor) -> "Ragged":
        """Return the sequences ``rows`` (B,), in that order."""
        values, mask = self.batch(rows)
        return Ragged(values[mask], offsets_of(self.lengths[rows]))


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
    model: MultiTaskModel, token_ids: Ragged, *, device: torch.device, progress: Progress = no_progress
) -> Ragged:
    """Run the prefix over N texts and return, on the CPU, what the cut keeps of each.

    With an empty prefix that is the token ids themselves.
    """
    if model.cut.keeps == "token ids":
        return token_ids
    model.eval()
    lengths = token_ids.lengths
    one_each = model.cut.keeps != "tokens"
    offsets = torch.arange(len(lengths) + 1) if one_each else token_ids.offsets
    values: Tensor | None = None
    for length in lengths.unique().tolist():
        same_length = (lengths == length).nonzero()[:, 0]
        for rows in same_length.split(max(1, BUDGET // length)):
            activations = _encode_batch(model, token_ids, rows, length, device)  # (B, length or 1, D or W)
            if values is None:
                values = activations.new_empty(int(offsets[-1]), activations.shape[-1])
            index = offsets[rows][:, None] + torch.arange(activations.shape[1])
            values[index] = activations
            progress(len(rows))
    assert values is not None, "there is always a text to encode"
    return Ragged(values, offsets)


def _encode_batch(model: MultiTaskModel, token_ids: Ragged, rows: Tensor, length: int, device: torch.device) -> Tensor:
    """Encode texts of one length, repeating the first where they are too few for the floor."""
    missing = -(-FLOOR // length) - len(rows)
    repeated = torch.cat([rows, rows[:1].expand(missing)]) if missing > 0 else rows
    index = token_ids.offsets[repeated][:, None] + torch.arange(length)
    ids = token_ids.values[index].to(device)  # (B, length)
    return model.prefix(ids, torch.ones_like(ids, dtype=torch.bool))[: len(rows)].cpu()


@dataclass(frozen=True)
class Recomputed:
    """Activations that are too large to keep: each batch is encoded when it is asked for, to the same bits."""

    model: MultiTaskModel
    token_ids: Ragged
    device: torch.device

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        training = self.model.training
        activations = encode(self.model, self.token_ids.take(rows), device=self.device)
        self.model.train(training)
        return activations.batch(torch.arange(len(rows)))
