"""Look into a folder of the activation store."""

from pathlib import Path

import torch
from torch import Tensor

from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.manifest import MANIFEST, read_manifest
from topwork.engine.encoding.store.stored_activations import StoredActivations


def add(store: ActivationStore, digests: Digests, activations: Ragged) -> None:
    """Add a shard; call only while ``building``."""
    shard = store.new_shard()
    shard.append(digests, activations.values, activations.lengths)
    store.add(shard)


def build(store: ActivationStore, digests: Digests, activations: Ragged) -> None:
    with store.building(lambda: None):
        add(store, digests, activations)


def shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def named_in(folder: Path) -> set[str]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return {MANIFEST, *(shard.file for shard in manifest.shards)}


def held(stored: StoredActivations) -> list[int]:
    return [number for number, shard in enumerate(stored.shard_index.tolist()) if shard >= 0]


def everything(activations: Ragged) -> tuple[Tensor, Tensor]:
    return activations.batch(torch.arange(len(activations.lengths)))


def merge(store: ActivationStore) -> None:
    with store.building(lambda: None):
        store.merge()
