"""A corpus to activations: out of the store where they are there, else computed, and kept where it pays."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from time import monotonic, perf_counter

import psutil
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topwork.engine.encoding.encoder import RecomputedActivations, encode, encode_batches
from topwork.engine.encoding.examples import Activations
from topwork.engine.encoding.parts import encode_in_parts
from topwork.engine.encoding.store.activation_store import SHARD_BYTES, ActivationStore
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.shard_file import ShardFile
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.engine.encoding.store_decision import EncodingJob, StoreDecision, decide_store, free_bytes, missing_bytes
from topwork.engine.model.seeding import derive_seed
from topwork.engine.observer import EncodingReport, Location, Observer
from topwork.errors import StorageError
from topwork.mapped import places_of

#: A shard is written after so many seconds even if it is small: no more is lost when a build is killed.
SHARD_SECONDS = 60.0

#: How many shards are finished at a time, one of a store.
WRITERS = 2

#: Of a build of many bytes so many parts are written while the rest is encoded, none of them of fewer bytes than that.
PARTS, PART_BYTES = 4, 64 * 1024 * 1024

#: How many stored texts are computed again before a run trusts the store.
CHECKED_TEXTS = 3

logger = logging.getLogger(__name__)


def compute_activations(
    job: EncodingJob, decision: StoreDecision, observer: Observer, also: Sequence[EncodingJob] = ()
) -> tuple[Activations, EncodingReport]:
    """Get what the cut keeps of every distinct text, computing each once at most, and report where it came from.

    Args:
        also: what is going to be needed of the same texts, at other cuts; one pass fills the store for all of them.

    Raises:
        StorageError: the store holds something else than the prefix gives, or ``training.store`` is ``require``
            and the store fails.
    """
    for module in (job.prefix.backbone, job.prefix.pooling):
        module.to(job.device)
    stored = decision.stored
    if stored:
        check_stored(job, stored)
    if decision.store is None or stored is None:
        return _in_memory(job, stored, decision.reason, observer)
    try:
        others = _stores_of(also, job, 0.9 * free_bytes() - missing_bytes(job, stored))
        return _through_store(job, decision.store, stored, others, observer)
    except StorageError as error:
        if job.settings.store == "require":
            raise
        logger.warning("going on without adding to the activation store: %s", error)
        with suppress(StorageError):
            stored = decision.store.find(job.digests)  # some were added before it failed
        return _in_memory(job, stored, str(error), observer)


def _stores_of(jobs: Sequence[EncodingJob], of: EncodingJob, room: float) -> list[tuple[EncodingJob, ActivationStore]]:
    """Return the stores that serve other jobs of the same backbone and lack texts, as long as there is room for them.

    Args:
        of: the job that they are encoded with.
        room: in bytes.
    """
    found: dict[str, tuple[EncodingJob, ActivationStore]] = {}
    if of.dtype == torch.float16:
        return []  # what of another cut is too large for it must not end this one
    for job in jobs:
        if job.prefix.backbone is not of.prefix.backbone or (job.phase.cut, job.pooling) == (of.phase.cut, of.pooling):
            continue
        try:
            decision = decide_store(job)
        except StorageError:
            continue  # which is said when it is that job's turn
        if decision.store is None or decision.stored is None or decision.store.key.digest in found:
            continue
        needed = missing_bytes(job, decision.stored)
        if 0 < needed <= room:
            room -= needed
            found[decision.store.key.digest] = job, decision.store
    return list(found.values())


def check_stored(job: EncodingJob, stored: StoredActivations) -> None:
    """Compute a few stored texts again and compare: on the CPU to the last bit, elsewhere as ``tolerance`` says.

    Raises:
        StorageError: they differ.
    """
    held = (stored.shard_index >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(derive_seed(job.settings.seed, "self-check"))
    some = held[torch.randperm(len(held), generator=generator)[:CHECKED_TEXTS]]
    if not len(some):
        return
    again = encode(job.prefix, job.corpus.sequences.take(some), device=job.device, dtype=job.dtype)
    for number, text in enumerate(some):
        computed, _ = again.batch(torch.tensor([number]))
        kept, _ = stored.batch(text[None])
        if torch.equal(computed, kept):
            continue
        difference = float((computed.float() - kept.float()).abs().max())
        if not difference <= tolerance(job) * float(kept.float().abs().max()):
            raise StorageError(
                f"{stored.folder} does not hold what the encoder gives: a text computed again differs by "
                f"{difference:.1e}. The encoder's code has changed, or the folder comes from another machine; "
                f"remove it with: topwork cache prune {stored.folder.name[:12]}, or set training.store: off"
            )


def tolerance(job: EncodingJob) -> float:
    """How far a text computed again may differ, as a share of its greatest number: 0 on the CPU.

    Elsewhere sums come in any order, so it is 1 part in 1,000, or some roundings of a 16-bit type that is used.
    """
    if job.device.type == "cpu":
        return 0.0
    coarsest = torch.bfloat16 if job.prefix.mixed_stages else job.dtype
    return max(1e-3, 4 * torch.finfo(coarsest).eps)


def _through_store(
    job: EncodingJob,
    store: ActivationStore,
    stored: StoredActivations,
    others: Sequence[tuple[EncodingJob, ActivationStore]],
    observer: Observer,
) -> tuple[Activations, EncodingReport]:
    """Encode what the store lacks, add it, and return all of it. One process at a time does so; others wait."""
    key = store.key.digest
    if not len(stored.missing) and not others:
        store.tidy()
        return stored, _report(job, "store", key)
    stores = {one.key.digest: (of, one) for of, one in [*others, (job, store)]}
    shared = encode_in_parts([(job, store)], observer) if store.is_shared() else None
    with ExitStack() as building:
        for digest in sorted(stores):  # in one order, so that no two processes wait for each other
            building.enter_context(
                stores[digest][1].building(
                    lambda: observer.begin("waiting for another process that encodes such texts", 0)
                )
            )
        encoded, seconds = _encode_missing(list(stores.values()), observer)
        for _, one in stores.values():
            one.merge()
        complete = store.find(job.digests)
    if len(complete.missing):
        raise StorageError(f"{store.folder} lost {len(complete.missing)} texts that had just been written to it")
    if shared:
        encoded, seconds = encoded + shared.encoded, seconds + shared.seconds
    return complete, _report(job, "store", key, encoded=encoded, seconds=seconds)


def _encode_missing(stores: Sequence[tuple[EncodingJob, ActivationStore]], observer: Observer) -> tuple[int, float]:
    """Encode what some stores lack, each text in one pass for all of them; return how many, and the seconds."""
    started = perf_counter()
    lacks = [torch.zeros(len(job.digests), dtype=torch.bool) for job, _ in stores]
    expected = 0
    for (job, store), lacking in zip(stores, lacks, strict=True):
        stored = store.find(job.digests)  # another process may have added some
        lacking[stored.missing] = True
        expected += missing_bytes(job, stored)
    texts = torch.from_numpy(places_of(torch.stack(lacks).any(dim=0).numpy()))
    job = stores[0][0]
    sequences = job.corpus.sequences.take(texts)
    observer.begin("encoding (tokens)", int(sequences.lengths.sum()))
    batches = encode_batches(
        [one.prefix for one, _ in stores], sequences, device=job.device, dtype=job.dtype, progress=observer.advance
    )
    of_stores = [(job.digests, store) for job, store in stores]
    write_shards(of_stores, _lacking(batches, texts, lacks), expected=expected)
    return len(texts), perf_counter() - started


def write_shards(
    stores: Sequence[tuple[Digests, ActivationStore]],
    batches: Iterable[tuple[int, Int[Tensor, " _B"], Float[Tensor, "_B _T columns"]]],
    *,
    expected: int = 0,
) -> None:
    """Add batches to stores, and finish shards while the next are encoded, one of a store at a time.

    Args:
        stores: with the digests of all texts.
        batches: the number of a store, those (B,) of some texts, and what is kept of them (B, T, D).
        expected: the bytes of all of them, where that is known.

    Raises:
        StorageError: they cannot be written.
    """
    enough = min(SHARD_BYTES, max(PART_BYTES, expected // PARTS)) if expected else SHARD_BYTES
    shards: dict[int, ShardFile] = {}
    finishing: dict[int, Future[None]] = {}
    since = monotonic()
    with ExitStack() as unfinished, ThreadPoolExecutor(WRITERS) as writers:

        def finish() -> None:
            for number, shard in shards.items():
                if number in finishing:
                    finishing[number].result()
                finishing[number] = writers.submit(stores[number][1].add, shard)
            shards.clear()

        for number, texts, activations in batches:
            digests, store = stores[number]
            if number not in shards:
                shards[number] = store.new_shard()
                unfinished.callback(shards[number].discard)
            lengths = torch.full((len(texts),), activations.shape[1])
            shards[number].append(digests.take(texts.numpy()), activations.flatten(0, 1), lengths)
            if sum(shard.nbytes for shard in shards.values()) >= enough or monotonic() - since >= SHARD_SECONDS:
                finish()
                since = monotonic()
        finish()
        for future in finishing.values():
            future.result()


def _lacking(
    batches: Iterable[tuple[int, Int[Tensor, " B"], Float[Tensor, "B T columns"]]],
    texts: Int[Tensor, " missing"],
    lacks: Sequence[Bool[Tensor, " U"]],
) -> Iterator[tuple[int, Int[Tensor, " _B"], Float[Tensor, "_B T columns"]]]:
    """Yield of batches of some ``texts`` what each store lacks, with the texts' own numbers."""
    for store, rows, activations in batches:
        numbers = texts[rows]
        lacking = lacks[store][numbers]
        if lacking.all():
            yield store, numbers, activations
        elif lacking.any():
            yield store, numbers[lacking], activations[lacking]


def _in_memory(
    job: EncodingJob, stored: StoredActivations | None, reason: str, observer: Observer
) -> tuple[Activations, EncodingReport]:
    """Encode what is not stored into memory; where half of the free memory is too small, leave all to each batch."""
    sequences = job.corpus.sequences
    if job.phase.cut.keeps == "token ids":
        return sequences.token_ids, _report(job, "token ids", reason)
    size = missing_bytes(job, stored) if stored else job.plan.kept_bytes(job.phase)
    if size > psutil.virtual_memory().available / 2:
        recomputed = RecomputedActivations(job.prefix, sequences, job.device, job.dtype)
        return recomputed, _report(job, "recomputed", reason)
    held = stored if stored and stored.shards else None
    if held:
        sequences = sequences.take(held.missing)
    observer.begin("encoding (tokens)", int(sequences.lengths.sum()))
    started = perf_counter()
    computed = encode(job.prefix, sequences, device=job.device, dtype=job.dtype, progress=observer.advance)
    report = _report(job, "memory", reason, encoded=len(sequences), seconds=perf_counter() - started)
    return held.with_computed(computed) if held else computed, report


def _report(job: EncodingJob, where: Location, note: str, *, encoded: int = 0, seconds: float = 0.0) -> EncodingReport:
    return EncodingReport(job.plan.corpus_size.distinct_texts, encoded, seconds, where, note)
