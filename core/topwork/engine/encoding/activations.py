"""A corpus to activations: out of the store where they are there, else computed, and kept where it pays."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic, perf_counter

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topwork.engine.encoding.encoder import RecomputedActivations, encode, encode_batches
from topwork.engine.encoding.examples import Activations
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.store.activation_store import SHARD_BYTES, ActivationStore, StoredActivations
from topwork.engine.encoding.store_decision import EncodingJob, StoreDecision, missing_bytes
from topwork.engine.model.seeding import derive_seed
from topwork.engine.observer import EncodingReport, Location, Observer
from topwork.errors import StorageError

#: A shard is written after so many seconds even if it is small: no more is lost when a build is killed.
SHARD_SECONDS = 60.0

#: How many stored texts are computed again before a run trusts the store.
CHECKED_TEXTS = 3

logger = logging.getLogger(__name__)


def compute_activations(
    job: EncodingJob, decision: StoreDecision, observer: Observer
) -> tuple[Activations, EncodingReport]:
    """Get what the cut keeps of every distinct text, computing each once at most, and report where it came from.

    Raises:
        StorageError: the store holds something else than the prefix gives, or ``training.store`` is ``require``
            and the store fails.
    """
    job.model.to(job.device)
    stored = decision.stored
    if stored:
        check_stored(job, stored)
    if decision.store is None or stored is None:
        return _in_memory(job, stored, decision.reason, observer)
    try:
        return _through_store(job, decision.store, stored, observer)
    except StorageError as error:
        if job.settings.store == "require":
            raise
        logger.warning("going on without adding to the activation store: %s", error)
        with suppress(StorageError):
            stored = decision.store.find(job.digests)  # some were added before it failed
        return _in_memory(job, stored, str(error), observer)


def check_stored(job: EncodingJob, stored: StoredActivations) -> None:
    """Compute a few stored texts again and compare: on the CPU to the last bit, elsewhere to 1 part in 1,000.

    Raises:
        StorageError: they differ.
    """
    held = (stored.shard_index >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(derive_seed(job.settings.seed, "self-check"))
    some = held[torch.randperm(len(held), generator=generator)[:CHECKED_TEXTS]]
    if not len(some):
        return
    again = encode(job.model, job.corpus.sequences.take(some), device=job.device, dtype=job.dtype)
    for number, text in enumerate(some):
        computed, _ = again.batch(torch.tensor([number]))
        kept, _ = stored.batch(text[None])
        if torch.equal(computed, kept):
            continue
        difference = float((computed.float() - kept.float()).abs().max())
        if job.device.type == "cpu" or not difference <= 1e-3 * float(kept.float().abs().max()):
            raise StorageError(
                f"{stored.folder} does not hold what the encoder gives: a text computed again differs by "
                f"{difference:.1e}. The encoder's code has changed, or the folder comes from another machine; "
                f"remove it with: topwork cache prune {stored.folder.name[:12]}, or set training.store: off"
            )


def in_shards(
    batches: Iterator[tuple[Int[Tensor, " B"], Float[Tensor, "B T columns"]]],
) -> Iterator[tuple[Int[Tensor, " texts"], Ragged]]:
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


def _through_store(
    job: EncodingJob, store: ActivationStore, stored: StoredActivations, observer: Observer
) -> tuple[Activations, EncodingReport]:
    """Encode what the store lacks, add it, and return all of it. One process at a time does so; others wait."""
    digests, key = job.digests, store.key.digest
    if not len(stored.missing):
        store.tidy()
        return stored, _report(job, "store", key)
    with store.building(lambda: observer.begin("waiting for another process that encodes such texts", 0)):
        missing = store.find(digests).missing  # that process may have added some
        started = perf_counter()
        sequences = job.corpus.sequences.take(missing)
        observer.begin("encoding (tokens)", int(sequences.lengths.sum()))
        batches = encode_batches(job.model, sequences, device=job.device, dtype=job.dtype, progress=observer.advance)
        for numbers, activations in in_shards(batches):
            store.add([digests[number] for number in missing[numbers].tolist()], activations)
        seconds = perf_counter() - started
        store.merge()
        complete = store.find(digests)
    if len(complete.missing):
        raise StorageError(f"{store.folder} lost {len(complete.missing)} texts that had just been written to it")
    return complete, _report(job, "store", key, encoded=len(missing), seconds=seconds)


def _in_memory(
    job: EncodingJob, stored: StoredActivations | None, reason: str, observer: Observer
) -> tuple[Activations, EncodingReport]:
    """Encode what is not stored into memory; where half of the free memory is too small, leave all to each batch."""
    sequences = job.corpus.sequences
    if job.phase.cut.keeps == "token ids":
        return sequences.token_ids, _report(job, "token ids", reason)
    size = missing_bytes(job, stored) if stored else job.plan.kept_bytes(job.phase)
    if size > psutil.virtual_memory().available / 2:
        recomputed = RecomputedActivations(job.model, sequences, job.device, job.dtype)
        return recomputed, _report(job, "recomputed", reason)
    held = stored if stored and stored.shards else None
    if held:
        sequences = sequences.take(held.missing)
    observer.begin("encoding (tokens)", int(sequences.lengths.sum()))
    started = perf_counter()
    computed = encode(job.model, sequences, device=job.device, dtype=job.dtype, progress=observer.advance)
    report = _report(job, "memory", reason, encoded=len(sequences.lengths), seconds=perf_counter() - started)
    return held.with_computed(computed) if held else computed, report


def _report(job: EncodingJob, where: Location, note: str, *, encoded: int = 0, seconds: float = 0.0) -> EncodingReport:
    return EncodingReport(job.plan.corpus_size.distinct_texts, encoded, seconds, where, note)
