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
from topwork.engine.encoding.ragged import Ragged
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
) -> Iterator[tuple[Int[Tensor, " B"], Float[Tensor, "B kept columns"]]]:
    """Yield, by length, the numbers (B,) of some texts and what the cut keeps of them, (B, T or 1, D or W).

    Raises:
        ConfigurationError: activations are too large for float16.
    """
    model.eval()
    lengths = token_ids.lengths
    for length in lengths.unique().tolist():
        same_length = (lengths == length).nonzero()[:, 0]
        for rows in same_length.split(max(1, TOKENS_PER_BATCH // length)):
            activations = _encode_batch(model, token_ids, rows, length, device)
            kept = activations.to("cpu", dtype)
            if dtype == torch.float16 and not kept.isfinite().all():
                raise ConfigurationError(
                    f"training.activation_dtype: float16 holds numbers up to 65,504, but activations reach "
                    f"{float(activations.abs().max()):,.0f}; set bfloat16 or float32"
                )
            yield rows, kept
            progress(len(rows) * length)


def _encode_batch(
    model: MultiTaskModel, token_ids: Ragged, rows: Int[Tensor, " B"], length: int, device: torch.device
) -> Float[Tensor, "B kept columns"]:
    """Encode texts of one length, repeating the first to reach ``MIN_ROWS`` token rows where they are too few."""
    missing = -(-MIN_ROWS // length) - len(rows)
    repeated = torch.cat([rows, rows[:1].expand(missing)]) if missing > 0 else rows
    index = token_ids.offsets[repeated][:, None] + torch.arange(length)
    ids = token_ids.values[index].to(device)  # (B, length)
    return model.run_prefix(ids, torch.ones_like(ids, dtype=torch.bool))[: len(rows)]


@dataclass(frozen=True)
class RecomputedActivations:
    """Activations that are not kept: each batch is encoded when it is asked for, to the same bits."""

    model: MultiTaskModel
    token_ids: Ragged
    device: torch.device
    dtype: torch.dtype = torch.float32

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Shaped[Tensor, "B T *columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        training = self.model.training
        activations = encode(self.model, self.token_ids.take(rows), device=self.device, dtype=self.dtype)
        self.model.train(training)
        return activations.batch(torch.arange(len(rows)))
