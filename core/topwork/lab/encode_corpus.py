"""Encode what experiments will need, in any number of processes, before any of them trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.parts import encode_in_parts
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.claims import flock_works
from topwork.engine.encoding.store_decision import EncodingJob, decide_store
from topwork.engine.observer import Observer
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment, Training
from topwork.registry import discover
from topwork.torchrun import local_rank

#: Texts that are encoded on the CPU too where another device encodes.
COMPARED_TEXTS = 8


@dataclass(frozen=True)
class StoredCorpus:
    """A corpus that is stored as a whole.

    Attributes:
        texts, tokens: of it, each distinct text once.
        encoded: how many texts this process encoded.
        seconds: that it was at work, and waited for others.
        folders: of the activation store, one for each cut.
        bytes: of these.
        device: where this process encoded.
        difference: the largest between an activation of this device and the CPU's; None on the CPU.
        claims, lock: how processes share the work and the folders, in words.
    """

    texts: int
    tokens: int
    encoded: int
    seconds: float
    folders: tuple[Path, ...]
    bytes: int
    device: str
    difference: float | None
    claims: str
    lock: str


def encode_corpus(experiment: Experiment, *, observer: Observer | None = None) -> StoredCorpus:
    """Encode all texts of an experiment, and of its study's cuts, into the activation store, and do not train.

    Any number of processes that share the cache folder may do so at a time, of one or several machines: each takes the
    next part of the corpus that nobody has, and all end when everything is stored. Under torchrun each has the device
    of its local rank.

    Args:
        observer: its ``begin`` and ``advance`` are called meanwhile.

    Raises:
        ConfigurationError: nothing of the experiment can be stored; says why.
        TopworkError: what else is wrong.
    """
    device = device_of(experiment.training)
    stores = _stores(experiment, device)
    jobs = [job for job, _ in stores]
    difference = None if device.type == "cpu" else difference_from_cpu(jobs[0])
    for module in (jobs[0].prefix.backbone, *(job.prefix.pooling for job in jobs)):
        module.to(device)
    share = encode_in_parts(stores, observer or Observer())
    folders = tuple(store.folder for _, store in stores)
    lengths = jobs[0].corpus.sequences.lengths
    return StoredCorpus(
        texts=len(lengths),
        tokens=int(lengths.sum()),
        encoded=share.encoded,
        seconds=share.seconds,
        folders=folders,
        bytes=sum(shard.bytes for _, store in stores for shard in store.listed_shards()),
        device=str(device),
        difference=difference,
        claims=share.claims,
        lock="flock" if flock_works(folders[0]) else "claims, since flock does not work there",
    )


def device_of(settings: Training) -> torch.device:
    """Return where a process encodes: what the experiment asks for; of several GPUs that of its local rank.

    Raises:
        ConfigurationError: the device is not there.
    """
    rank = local_rank()
    if rank is None:
        device: torch.device = make_accelerator(settings).device
        return device
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")  # and no group of processes, which would end with the first that dies
    count = torch.cuda.device_count()
    if settings.device not in ("auto", "cuda") or rank >= count:
        raise ConfigurationError(
            f"training.device is {settings.device}, but the process of local rank {rank} has none: this machine offers "
            f"{count} GPUs; start as many processes as there are GPUs, or set training.device: cpu"
        )
    return torch.device("cuda", rank)


def difference_from_cpu(job: EncodingJob) -> float:
    """Return the largest difference between what a job's device gives for a few texts and what the CPU gives."""
    some = job.corpus.sequences.take(torch.arange(min(COMPARED_TEXTS, len(job.corpus.sequences))))
    given = []
    for device in (torch.device("cpu"), job.device):
        for module in (job.prefix.backbone, job.prefix.pooling):
            module.to(device)
        given.append(encode(job.prefix, some, device=device, dtype=job.dtype).values.float())
    return float((given[0] - given[1]).abs().max())


def _stores(experiment: Experiment, device: torch.device) -> list[tuple[EncodingJob, ActivationStore]]:
    """Return what is to be stored, each folder once.

    Raises:
        ConfigurationError: nothing can be; says why.
    """
    cache = PreparationCache()
    prepared = cache.prepare(experiment)
    jobs = prepared.encoding_jobs(device)
    jobs += _jobs_of_study(experiment, cache, device) if experiment.study else []
    found: dict[str, tuple[EncodingJob, ActivationStore]] = {}
    reasons = ["" if jobs else "everything trains, so there is nothing to keep"]
    for job in jobs:
        decision = decide_store(job)
        reasons.append(decision.reason)
        if decision.store is not None:
            found.setdefault(decision.store.key.digest, (job, decision.store))
    if not found:
        why = next(reason for reason in reasons if reason)
        if "would not pay" in why:
            why += "; to store it all the same set training.store: require"
        raise ConfigurationError(f"{experiment.origin.locate('training', 'store')}: nothing can be stored: {why}")
    return list(found.values())


def _jobs_of_study(experiment: Experiment, cache: PreparationCache, device: torch.device) -> Sequence[EncodingJob]:
    from topwork.lab.study.encode_ahead import jobs_of_cuts, searched_cuts
    from topwork.lab.study.resolved_study import resolve_study

    study = resolve_study(experiment, discover(experiment.plugins))
    return list(jobs_of_cuts(study, list(searched_cuts(study)), cache, device))
