"""Activations that lie in the shards of a folder of the store."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged
from topwork.mapped import places_of


@dataclass(frozen=True)
class StoredActivations:
    """Activations of U texts, mapped from shards.

    Attributes:
        folder: that the shards lie in.
        shards: the values of each shard; pages are read from disk when they are first used.
        shard_index: (U,) int64, the number of a text's shard; -1 where the text is not stored.
        position: (U,) int64, the text's place in its shard.
    """

    folder: Path
    shards: tuple[Ragged, ...]
    shard_index: Int[Tensor, " U"]
    position: Int[Tensor, " U"]

    @property
    def missing(self) -> Int[Tensor, " missing"]:
        """The numbers of the texts that are not stored."""
        return torch.from_numpy(places_of((self.shard_index < 0).numpy()))

    def with_computed(self, activations: Ragged) -> "StoredActivations":
        """Return these with those of the missing texts, in their order, which stay in memory."""
        missing = self.missing
        shard_index, position = self.shard_index.clone(), self.position.clone()
        shard_index[missing], position[missing] = len(self.shards), torch.arange(len(missing))
        return StoredActivations(self.folder, (*self.shards, activations), shard_index, position)

    def batch(self, rows: Int[Tensor, " B"]) -> tuple[Float[Tensor, "B T columns"], Bool[Tensor, "B T"]]:
        """Return what the cut keeps for ``rows`` (B,), padded to (B, T, ...), and the mask (B, T)."""
        shard, position = self.shard_index[rows], self.position[rows]
        if len(self.shards) == 1:
            return self.shards[0].batch(position)
        places = [(shard == number).nonzero()[:, 0] for number in range(len(self.shards))]
        parts = [
            (place, *ragged.batch(position[place]))
            for place, ragged in zip(places, self.shards, strict=True)
            if len(place)
        ]
        longest = max(mask.shape[1] for _, _, mask in parts)
        values = parts[0][1].new_zeros(len(rows), longest, *parts[0][1].shape[2:])
        whole = torch.zeros(len(rows), longest, dtype=torch.bool)
        for place, part, mask in parts:
            values[place, : part.shape[1]] = part
            whole[place, : mask.shape[1]] = mask
        return values, whole
