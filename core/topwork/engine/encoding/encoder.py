"""Token ids to activations, exactly.

On the CPU a text's activation is the same to the last bit whatever else is encoded with it, because texts
are encoded in batches of equal length, without padding, and with at least 64 token rows: below that, torch's
matrix kernels change with the number of rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from topwork.building_blocks import MIN_ROWS
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.prefix import Cut, Prefix, run_stages
from topwork.errors import ConfigurationError

#: Token rows per batch: large enough to keep the cores busy, small enough to stay near the caches.
TOKENS_PER_BATCH = 4096

#: Called with the number of tokens done since the last call.
Progress = Callable[[int], None]


def no_progress(done: int) -> None:
    """Show nothing."""


def encode(
    prefix: Prefix,
    sequences: Sequences,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> Ragged:
    """Run a prefix over N texts and return, on the CPU, what the cut keeps of each.

    With an empty prefix that is the token ids themselves.
    """
    if prefix.cut.keeps == "token ids":
        return sequences.token_ids
    offsets = offsets_of(sequences.vectors_kept(prefix.cut))
    values: Tensor | None = None
    for _, rows, activations in encode_batches([prefix], sequences, device=device, dtype=dtype, progress=progress):
        if values is None:
            values = activations.new_empty(int(offsets[-1]), activations.shape[-1])
        index = offsets[rows][:, None] + torch.arange(activations.shape[1])
        values[index] = activations
    assert values is not None, "there is always a text to encode"
    return Ragged(values, offsets)


def encode_batches(
    prefixes: Sequence[Prefix],
    sequences: Sequences,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = no_progress,
) -> Iterator[tuple[int, Int[Tensor, " B"], Float[Tensor, "B kept columns"]]]:
    """Yield, by length, the numbers (B,) of some texts and what a cut keeps of them, (B, vectors, D or W).

    Several prefixes of one backbone run together: a stage runs once for all that need it. Each gives the same bits as
    alone. Each result begins with the number of a prefix.

    Raises:
        ConfigurationError: activations are too large for float16.
    """
    lengths, has_words = sequences.lengths, sequences.word_starts.lengths > 0
    with ExitStack() as modes:
        for prefix in prefixes:
            modes.enter_context(prefix.in_eval_mode())
        for length in lengths.bincount().nonzero()[:, 0].tolist():
            for divided in (False, True):
                alike = ((lengths == length) & (has_words == divided)).nonzero()[:, 0]
                for rows in alike.split(max(1, TOKENS_PER_BATCH // length)) if len(alike) else ():
                    of_words = [divided and not prefix.cut.keeps_every_token for prefix in prefixes]
                    vectors = _encode_batch(prefixes, of_words, sequences.token_ids, rows, device)
                    for number, kept in enumerate(map(partial(_as_kept, dtype=dtype), vectors)):
                        cut = prefixes[number].cut
                        pieces = _vectors_read(sequences, cut, rows, kept) if of_words[number] else [(rows, kept)]
                        yield from ((number, *piece) for piece in pieces)
                    progress(len(rows) * length)


def _encode_batch(
    prefixes: Sequence[Prefix],
    of_words: Sequence[bool],
    token_ids: Ragged,
    rows: Int[Tensor, " B"],
    device: torch.device,
) -> Iterator[Float[Tensor, "B vectors columns"]]:
    """Yield what each cut keeps of texts of one length, repeating the first to reach ``MIN_ROWS`` token rows.

    Args:
        of_words: for which cuts that is to be followed by the hidden states of all tokens.
    """
    length = int(token_ids.lengths_of(rows[:1]))
    missing = -(-MIN_ROWS // length) - len(rows)
    repeated = torch.cat([rows, rows[:1].expand(missing)]) if missing > 0 else rows
    index = token_ids.offsets[repeated][:, None] + torch.arange(length)
    ids = token_ids.values[index].to(device)  # (B, length)
    mask = torch.ones_like(ids, dtype=torch.bool)
    needs = {count for prefix, every in zip(prefixes, of_words, strict=True) for count in prefix.needs(every)}
    mixed = max(prefix.mixed_stages for prefix in prefixes)
    states = run_stages(prefixes[0].backbone.stages(), ids, mask, needs, mixed=mixed)
    for prefix, every in zip(prefixes, of_words, strict=True):
        yield prefix.finish(states, mask, every)[: len(rows)]


def _as_kept(activations: Float[Tensor, "B vectors columns"], dtype: torch.dtype) -> Float[Tensor, "B vectors columns"]:
    """Return activations on the CPU, as they are kept.

    Raises:
        ConfigurationError: they are too large for float16.
    """
    kept = activations.to("cpu", dtype)
    if dtype == torch.float16 and not kept.isfinite().all():
        raise ConfigurationError(
            f"training.activation_dtype: float16 holds numbers up to 65,504, but activations reach "
            f"{float(activations.abs().max()):,.0f}; set bfloat16 or float32"
        )
    return kept


def _vectors_read(
    sequences: Sequences, cut: Cut, rows: Int[Tensor, " B"], vectors: Float[Tensor, "B vectors columns"]
) -> Iterator[tuple[Int[Tensor, " _B"], Float[Tensor, "_B kept columns"]]]:
    """Yield, by their number, the vectors that heads read of texts: of the whole, and the first tokens of words.

    Args:
        vectors: of ``rows`` (B,), those of the whole, and then those of all tokens.
    """
    counts, leading = sequences.word_starts.lengths_of(rows), sequences.leading(cut, rows)
    for kind in torch.stack([counts, leading], dim=1).unique(dim=0):
        alike = ((counts == kind[0]) & (leading == kind[1])).nonzero()[:, 0]
        starts, _ = sequences.word_starts.batch(rows[alike])
        places = torch.cat([torch.arange(int(kind[1])).expand(len(alike), -1), starts + cut.leading], dim=1)
        yield rows[alike], vectors[alike[:, None], places]


@dataclass(frozen=True)
class RecomputedActivations:
    """Activations that are not kept: each batch is encoded when it is asked for, to the same bits."""

    prefix: Prefix
    sequences: Sequences
    device: torch.device
    dtype: torch.dtype = torch.float32

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        activations = encode(self.prefix, self.sequences.take(rows), device=self.device, dtype=self.dtype)
        return activations.batch(torch.arange(len(rows)))
