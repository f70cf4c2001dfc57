"""From token ids to activations: out of the store where they are there, else computed, and kept where it pays."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic, perf_counter

import psutil
import torch
from torch import Tensor

from topwork.engine.encoding import Activations, Ragged, Recomputed, Shared, encode, encode_batches, offsets_of
from topwork.engine.evaluation import Rows
from topwork.engine.model import derive_seed
from topwork.engine.observer import Observer, Reading, Where
from topwork.engine.plan import Phase
from topwork.engine.preparation import Prepared
from topwork.engine.store.caches import cache_folder
from topwork.engine.store.folder import SHARD_BYTES, ActivationStore, Stored
from topwork.engine.store.key import make_key
from topwork.errors import StorageError
from topwork.experiment.schema import SplitName

#: Operations per kept byte below which computing again is as quick as a disk: 200 GFLOP/s against 100 MB/s.
WORTH_KEEPING = 2000

#: A shard is written after so many seconds even if it is small: no more is lost when a build is killed.
SHARD_SECONDS = 60.0

#: How many stored texts are computed again before a run trusts the store.
CHECKED_TEXTS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Whether the store serves a phase.

    Attributes:
        store: None where it does not.
        stored: what it has of the distinct texts; None where it does not serve.
        reason: why it does not; empty where it does.
    """

    store: ActivationStore | None
    stored: Stored | None
    reason: str


def read_rows(
    prepared: Prepared, phase: Phase, *, device: torch.device, observer: Observer
) -> tuple[dict[SplitName, Rows], Reading]:
    """Get what the cut keeps of every text, each distinct one computed once at most, and say how it was come by.

    The model must be frozen and cut as ``phase`` says.

    Raises:
        StorageError: the store holds something else than the prefix gives, or ``training.store`` is ``require``
            and the store cannot serve.
    """
    prepared.model.to(device)
    choice = choose_store(prepared, phase, device=device)
    note, obtained = choice.reason, None
    if choice.store and choice.stored:
        check_stored(prepared, choice.store, choice.stored, device=device)
        note = choice.store.key.digest
        try:
            obtained = _complete(prepared, choice.store, choice.stored, device=device, observer=observer)
        except StorageError as fault:
            if prepared.experiment.training.store == "require":
                raise
            logger.warning("going on without the activation store: %s", fault)
            note = str(fault)
    if obtained is None:
        obtained = _without_store(prepared, phase, device=device, observer=observer)
    rows = {}
    for name, part in prepared.dataset.parts.items():
        targets = {task: torch.from_numpy(values) for task, values in part.targets.items()}
        rows[name] = Rows(Shared(obtained.activations, prepared.corpus.of[name]), targets, len(part.texts))
    return rows, Reading(prepared.plan.distinct_texts, obtained.encoded, obtained.seconds, obtained.where, note)


def choose_store(prepared: Prepared, phase: Phase, *, device: torch.device) -> Choice:
    """Decide whether the store serves a phase, and look up what it has. Computes nothing.

    Raises:
        StorageError: it cannot, and ``training.store`` is ``require``.
    """
    setting = prepared.experiment.training.store
    reason = _why_not(prepared, phase)
    if not reason:
        key = make_key(prepared.model, prepared.experiment.pooling, dtype=prepared.dtype, device=device)
        store = ActivationStore(cache_folder(), key)
        try:
            stored = store.find(prepared.corpus.digests)
            reason = _why_no_room(prepared, phase, stored)
        except StorageError as fault:
            reason = str(fault)
        if not reason:
            return Choice(store, stored, "")
    if setting == "require":
        where = prepared.experiment.origin.locate("training", "store")
        raise StorageError(f"{where} is require, but {reason}")
    return Choice(None, None, reason)


def missing_bytes(prepared: Prepared, phase: Phase, stored: Stored) -> int:
    """The size of what the store still lacks: activations, and 40 bytes to find each text by."""
    lengths = prepared.corpus.token_ids.lengths[stored.missing]
    vectors = int(lengths.sum()) if phase.cut.keeps == "tokens" else len(lengths)
    return vectors * prepared.plan.bytes_per_vector(phase) + 40 * len(lengths)


def check_stored(prepared: Prepared, store: ActivationStore, stored: Stored, *, device: torch.device) -> None:
    """Compute a few stored texts again and compare: on the CPU to the last bit, elsewhere to 1 part in 1,000.

    Raises:
        StorageError: they differ.
    """
    held = (stored.shard >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(derive_seed(prepared.experiment.training.seed, "self-check"))
    some = held[torch.randperm(len(held), generator=generator)[:CHECKED_TEXTS]]
    if not len(some):
        return
    token_ids = prepared.corpus.token_ids.take(some)
    again = encode(prepared.model, token_ids, device=device, dtype=prepared.dtype)
    for number, text in enumerate(some):
        computed, _ = again.batch(torch.tensor([number]))
        kept, _ = stored.batch(text[None])
        if torch.equal(computed, kept):
            continue
        difference = float((computed.float() - kept.float()).abs().max())
        if device.type == "cpu" or not difference <= 1e-3 * float(kept.float().abs().max()):
            raise StorageError(
                f"{store.folder} does not hold what the encoder gives: a text computed again differs by "
                f"{difference:.1e}. The encoder's code has changed, or the folder comes from another machine; "
                f"remove it with: topwork cache prune {store.key.digest[:12]}, or set training.store: off"
            )


def in_shards(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Ragged]]:
    """Join batches, the numbers (B,) of some texts with their activations (B, T, D), into pieces to be written."""
    numbers: list[Tensor] = []
    values: list[Tensor] = []
    lengths: list[int] = []
    size, since = 0, monotonic()
    for rows, activations in batches:
        numbers.append(rows)
        values.append(activations.flatten(0, 1))
        lengths += [activations.shape[1]] * len(rows)
        size += activations.nbytes
        if size >= SHARD_BYTES or monotonic() - since >= SHARD_SECONDS:
            yield torch.cat(numbers), Ragged(torch.cat(values), offsets_of(torch.tensor(lengths)))
            numbers, values, lengths, size, since = [], [], [], 0, monotonic()
    if numbers:
        yield torch.cat(numbers), Ragged(torch.cat(values), offsets_of(torch.tensor(lengths)))


@dataclass(frozen=True)
class _Obtained:
    """The activations of the distinct texts, where they are, and how many were encoded in how many seconds."""

    activations: Activations
    where: Where
    encoded: int
    seconds: float


def _complete(
    prepared: Prepared, store: ActivationStore, stored: Stored, *, device: torch.device, observer: Observer
) -> _Obtained:
    """Encode what the store lacks, add it, and return all of it. One process at a time does so; others wait."""
    corpus = prepared.corpus
    if not len(stored.missing):
        store.tidy()
        return _Obtained(stored, "store", 0, 0.0)
    with store.building(lambda: observer.begin("waiting for another process that encodes such texts", 0)):
        missing = store.find(corpus.digests).missing  # that process may have added some
        started = perf_counter()
        token_ids = corpus.token_ids.take(missing)
        observer.begin("encoding (tokens)", len(token_ids.values))
        batches = encode_batches(
            prepared.model, token_ids, device=device, dtype=prepared.dtype, progress=observer.advance
        )
        for numbers, activations in in_shards(batches):
            store.add([corpus.digests[number] for number in missing[numbers].tolist()], activations)
        seconds = perf_counter() - started
        store.merge()
        complete = store.find(corpus.digests)
    if len(complete.missing):
        raise StorageError(f"{store.folder} lost {len(complete.missing)} texts that had just been written to it")
    return _Obtained(complete, "store", len(missing), seconds)


def _without_store(prepared: Prepared, phase: Phase, *, device: torch.device, observer: Observer) -> _Obtained:
    """Encode all texts into memory; where half of the free memory is too small, leave it to each batch."""
    token_ids = prepared.corpus.token_ids
    if phase.cut.keeps == "token ids":
        return _Obtained(token_ids, "token ids", 0, 0.0)
    if prepared.plan.kept_bytes(phase) > psutil.virtual_memory().available / 2:
        return _Obtained(Recomputed(prepared.model, token_ids, device, prepared.dtype), "recomputed", 0, 0.0)
    observer.begin("encoding (tokens)", len(token_ids.values))
    started = perf_counter()
    kept = encode(prepared.model, token_ids, device=device, dtype=prepared.dtype, progress=observer.advance)
    return _Obtained(kept, "memory", prepared.plan.distinct_texts, perf_counter() - started)


def _why_not(prepared: Prepared, phase: Phase) -> str:
    """Say why the store is of no use to a phase; nothing where it is."""
    plan, setting = prepared.plan, prepared.experiment.training.store
    if setting == "off":
        return "training.store is off"
    if phase.cut.keeps == "token ids":
        return "the first stage trains, so there is nothing to keep"
    if not phase.pristine:
        return "what is left of the cut was trained in earlier epochs, so no other run could use it"
    per_byte = phase.cost.encode * plan.texts / (plan.tokens if phase.cut.keeps == "tokens" else plan.texts)
    per_byte /= plan.bytes_per_vector(phase)
    if setting == "auto" and per_byte < WORTH_KEEPING:
        return f"it would not pay: with {per_byte:,.0f} operations per byte, computing again is as quick as a disk"
    return ""


def _why_no_room(prepared: Prepared, phase: Phase, stored: Stored) -> str:
    """Say so if what is missing would leave less than a tenth of the free disk; nothing where there is room."""
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    needed, free = missing_bytes(prepared, phase, stored), shutil.disk_usage(folder).free
    if needed <= 0.9 * free:
        return ""
    return (
        f"it needs {needed / 1e6:,.1f} MB and {folder} has {free / 1e6:,.1f} MB free; "
        "set TOPWORK_CACHE to a folder with more room, or training.activation_dtype: float16 to need half"
    )
