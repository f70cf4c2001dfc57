"""What there is to encode, and whether the activation store serves for it. Computes nothing."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from topwork.engine.encoding.corpus import Corpus
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import cache_folder
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import make_key
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.engine.model.plan import Phase, Plan
from topwork.engine.model.prefix import Prefix
from topwork.errors import StorageError
from topwork.experiment.schema import Training
from topwork.interfaces.pooling import PoolingConfig

#: Operations per kept byte below which computing again is as quick as a disk: 200 GFLOP/s against 100 MB/s.
WORTH_KEEPING = 2000

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EncodingJob:
    """All that decides the activations of a corpus in one phase, and how they are kept.

    Attributes:
        prefix: what is left of the cut of ``phase``.
        pooling: the settings of its pooling.
        corpus: the texts.
        plan: what the model trains, of which ``phase`` is a part.
        settings: of the training loop, for ``store``, ``activation_dtype`` and ``seed``.
        device: where the prefix runs.
    """

    prefix: Prefix
    pooling: PoolingConfig
    corpus: Corpus
    plan: Plan
    phase: Phase
    settings: Training
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """How activations are kept."""
        return DTYPES[self.settings.activation_dtype]

    @cached_property
    def digests(self) -> Digests:
        """What the activations of each distinct text are filed under."""
        return self.corpus.sequences.digests(self.phase.cut)


@dataclass(frozen=True)
class StoreDecision:
    """Whether the store serves a job.

    Attributes:
        store: what is computed is added to; None where nothing is.
        stored: what the store has of the distinct texts; None where it is not asked.
        reason: why nothing is added; empty where it is.
    """

    store: ActivationStore | None
    stored: StoredActivations | None
    reason: str


def decide_store(job: EncodingJob) -> StoreDecision:
    """Decide whether the store serves, and look up what it has. Computes nothing.

    Raises:
        StorageError: it cannot, and ``training.store`` is ``require``.
    """
    reason, stored = _why_not(job), None
    if not reason:
        key = make_key(job.prefix, job.pooling, dtype=job.dtype, device=job.device)
        store = ActivationStore(cache_folder(), key)
        try:
            stored = store.find(job.digests)
            reason = _why_no_room(job, stored)
        except StorageError as error:
            reason = str(error)
        if not reason:
            return StoreDecision(store, stored, "")
    if job.settings.store == "require":
        raise StorageError(f"require, but {reason}")
    return StoreDecision(None, stored, reason)


def missing_bytes(job: EncodingJob, stored: StoredActivations) -> int:
    """The size of what the store still lacks: activations, and 40 bytes to find each text by."""
    missing = stored.missing
    vectors = job.corpus.sequences.count_vectors(job.phase.cut, missing)
    return vectors * job.plan.bytes_per_vector(job.phase) + 40 * len(missing)


def _why_not(job: EncodingJob) -> str:
    """Say why the store is of no use to a phase; nothing where it is."""
    phase, size, setting = job.phase, job.plan.corpus_size, job.settings.store
    if setting == "off":
        return "training.store is off"
    if phase.cut.keeps == "token ids":
        return "the first stage trains, so there is nothing to keep"
    if not phase.prefix_is_pretrained:
        return "the prefix was trained in earlier epochs, so no other run could use it"
    per_byte = phase.cost.encode * size.distinct_texts / job.plan.kept_bytes(phase)
    if setting == "auto" and per_byte < WORTH_KEEPING:
        return f"it would not pay: with {per_byte:,.0f} operations per byte, computing again is as quick as a disk"
    return ""


def _why_no_room(job: EncodingJob, stored: StoredActivations) -> str:
    """Say so if what is missing would leave less than a tenth of the free disk; nothing where there is room."""
    needed, free = missing_bytes(job, stored), free_bytes()
    if needed <= 0.9 * free:
        return ""
    return (
        f"it needs {needed / 1e6:,.1f} MB and {_disk()} has {free / 1e6:,.1f} MB free; "
        "set TOPWORK_CACHE to a folder with more room, or training.activation_dtype: float16 to need half"
    )


def free_bytes() -> int:
    """Return what is free on the disk of the activation store."""
    return shutil.disk_usage(_disk()).free


def _disk() -> Path:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    return folder
