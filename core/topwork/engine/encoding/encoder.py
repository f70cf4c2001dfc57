"""Token ids to activations, exactly.

On the CPU a text's activation is the same to the last bit whatever else is encoded with it, because texts
are encoded in batches of equal length, without padding, and with at least 64 token rows: below that, torch's
matrix kernels change with the number of rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from topwork.building_blocks import MIN_ROWS
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import ConfigurationError

#: Token rows per batch: large enough to keep the cores busy, small enough to stay near the caches.
TOKENS_PER_BATCH = 4096

#: Called with the number of tokens done since the last call.
Progress = Callable[[int], None]


def no_progress(done: int) -> None:
    """Show nothing."""


def encode(
    model: MultiTaskModel,
    sequences: Sequences,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> Ragged:
    """Run the prefix over N texts and return, on the CPU, what the cut keeps of each.

    With an empty prefix that is the token ids themselves.
    """
    if model.cut.keeps == "token ids":
        return sequences.token_ids
    offsets = offsets_of(sequences.vectors_kept(model.cut))
    values: Tensor | None = None
    for rows, activations in encode_batches(model, sequences, device=device, dtype=dtype, progress=progress):
        if values is None:
            values = activations.new_empty(int(offsets[-1]), activations.shape[-1])
        index = offsets[rows][:, None] + torch.arange(activations.shape[1])
        values[index] = activations
    assert values is not None, "there is always a text to encode"
    return Ragged(values, offsets)


def encode_batches(
    model: MultiTaskModel,
    sequences: Sequences,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = no_progress,
) -> Iterator[tuple[Int[Tensor, " B"], Float[Tensor, "B kept columns"]]]:
    """Yield, by length, the numbers (B,) of some texts and what the cut keeps of them, (B, vectors, D or W).

    Raises:
        ConfigurationError: activations are too large for float16.
    """
    model.eval()
    lengths, word_counts = sequences.lengths, sequences.word_starts.lengths
    of_words = (word_counts > 0) & (model.cut.keeps != "tokens")  # of the others, more than the first token is needed
    for length in lengths.unique().tolist():
        same_length = lengths == length
        for divided in (False, True):
            alike = (same_length & (of_words == divided)).nonzero()[:, 0]
            for rows in alike.split(max(1, TOKENS_PER_BATCH // length)) if len(alike) else ():
                activations = _encode_batch(model, sequences.token_ids, rows, length, device, every_token=divided)
                kept = activations.to("cpu", dtype)
                if dtype == torch.float16 and not kept.isfinite().all():
                    raise ConfigurationError(
                        f"training.activation_dtype: float16 holds numbers up to 65,504, but activations reach "
                        f"{float(activations.abs().max()):,.0f}; set bfloat16 or float32"
                    )
                yield from _vectors_read(sequences, rows, kept) if divided else [(rows, kept)]
                progress(len(rows) * length)


def _encode_batch(
    model: MultiTaskModel,
    token_ids: Ragged,
    rows: Int[Tensor, " B"],
    length: int,
    device: torch.device,
    *,
    every_token: bool,
) -> Float[Tensor, "B kept columns"]:
    """Encode texts of one length, repeating the first to reach ``MIN_ROWS`` token rows where they are too few.

    Args:
        every_token: whether what the cut keeps of a text, (B, 1, ...), is to be followed by the hidden states of all of
            its tokens, (B, 1 + length, ...).
    """
    missing = -(-MIN_ROWS // length) - len(rows)
    repeated = torch.cat([rows, rows[:1].expand(missing)]) if missing > 0 else rows
    index = token_ids.offsets[repeated][:, None] + torch.arange(length)
    ids = token_ids.values[index].to(device)  # (B, length)
    run = model.run_prefix_on_words if every_token else model.run_prefix
    return run(ids, torch.ones_like(ids, dtype=torch.bool))[: len(rows)]


def _vectors_read(
    sequences: Sequences, rows: Int[Tensor, " B"], vectors: Float[Tensor, "B vectors columns"]
) -> Iterator[tuple[Int[Tensor, " _B"], Float[Tensor, "_B kept columns"]]]:
    """Yield, by their number, the vectors that heads read of texts: what is pooled, and the first tokens of words.

    Args:
        vectors: of ``rows`` (B,), what is pooled and then those of all tokens.
    """
    counts, pooled = sequences.word_starts.lengths[rows], sequences.pooled[rows]
    for kind in torch.stack([counts, pooled.long()], dim=1).unique(dim=0):
        alike = ((counts == kind[0]) & (pooled == kind[1])).nonzero()[:, 0]
        starts, _ = sequences.word_starts.batch(rows[alike])
        places = torch.cat([torch.zeros(len(alike), int(kind[1]), dtype=torch.int64), starts + 1], dim=1)
        yield rows[alike], vectors[alike[:, None], places]


@dataclass(frozen=True)
class RecomputedActivations:
    """Activations that are not kept: each batch is encoded when it is asked for, to the same bits."""

    model: MultiTaskModel
    sequences: Sequences
    device: torch.device
    dtype: torch.dtype = torch.float32

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        training = self.model.training
        activations = encode(self.model, self.sequences.take(rows), device=self.device, dtype=self.dtype)
        self.model.train(training)
        return activations.batch(torch.arange(len(rows)))
