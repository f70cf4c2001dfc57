"""Encode a corpus together with other processes, of this machine or of others: each takes the next part nobody has."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np
import torch
from numpy.typing import NDArray

from topwork.engine.encoding.encoder import encode_batches
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.claims import POLL_SECONDS, Claims
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.manifest import Shard
from topwork.engine.encoding.store.shard_file import ShardFile
from topwork.engine.encoding.store_decision import EncodingJob
from topwork.engine.observer import Observer
from topwork.errors import StorageError
from topwork.mapped import places_of

#: Tokens of a part: of a small corpus as few as fill a batch, of a large one so many that there are few files.
MIN_TOKENS, MAX_TOKENS = 4096, 65_536

#: Parts that a corpus has at least, if it has so many batches.
MIN_PARTS = 64


@dataclass(frozen=True)
class Share:
    """What one process did of a corpus.

    Attributes:
        encoded: how many texts it encoded.
        seconds: how long it was at work, and waited for others.
        claims: how the processes share the work, in words.
    """

    encoded: int
    seconds: float
    claims: str


def divide_corpus(sequences: Sequences, digests: Digests) -> list[NDArray[np.int64]]:
    """Divide texts into parts of about as many tokens, those of one length together, and else by their digests.

    So every process divides a corpus alike, and texts of one length are encoded together.
    """
    lengths = sequences.lengths.numpy()
    order = np.lexsort((digests.beginnings, lengths))
    done = np.cumsum(lengths[order])
    total = int(done[-1])
    size = min(max(total // MIN_PARTS, MIN_TOKENS), MAX_TOKENS)
    number = (done - lengths[order]) // size  # by where a text begins
    return np.split(order, np.flatnonzero(np.diff(number)) + 1)


def encode_in_parts(stores: Sequence[tuple[EncodingJob, ActivationStore]], observer: Observer) -> Share:
    """Encode what some stores lack of a corpus, together with all processes that do the same.

    A part whose process dies is taken by another. In the end everything is stored, whoever encoded it.

    Args:
        stores: each with what decides its activations; of one backbone and one corpus.

    Raises:
        StorageError: a store cannot be read or written.
    """
    started, encoded = perf_counter(), 0
    stores = sorted(stores, key=lambda one: one[1].key.digest)
    job, _ = stores[0]

    def waiting() -> None:
        observer.begin("waiting for another process that encodes such texts", 0)

    for _, store in stores:
        with store.building(waiting):  # who encodes alone comes to his end
            store.create()
    parts = divide_corpus(job.corpus.sequences, job.digests)
    corpus = _name_of(stores)
    lacking = [_Lacking(of.digests, store) for of, store in stores]
    lengths = job.corpus.sequences.lengths.numpy()
    tokens = [int(lengths[part[_lacking_somewhere(part, lacking)]].sum()) for part in parts]
    observer.begin("encoding (tokens)", sum(tokens))
    with ExitStack() as opened:
        claims = [opened.enter_context(store.open_claims()) for _, store in stores]
        for number in _parts_to_encode(parts, lacking, claims, corpus, observer):
            encoded += _encode_part(parts[number], stores, lacking)
            observer.advance(tokens[number])
        for own, (_, store) in zip(claims, stores, strict=True):
            with own.holding("finish", waiting), store.building(waiting):
                store.merge()
            own.tidy()
    for of, store in stores:
        if lost := len(_Lacking(of.digests, store, check=False).texts):
            raise StorageError(
                f"{store.folder} lost {lost:,} texts that had just been written to it: it was removed or damaged "
                "meanwhile; run the same command again"
            )
    return Share(encoded, perf_counter() - started, claims[0].method)


def _parts_to_encode(
    parts: Sequence[NDArray[np.int64]],
    lacking: Sequence["_Lacking"],
    claims: Sequence[Claims],
    corpus: str,
    observer: Observer,
) -> Iterator[int]:
    """Yield the numbers of parts that this process has claimed, until no store lacks a text of any.

    The claim in the first store decides; those in the others say that somebody adds to them.
    """
    left = dict(enumerate(parts))
    told = False
    while left:
        for one in lacking:
            one.update()
        took = False
        for number, part in list(left.items()):
            if not _lacking_somewhere(part, lacking).any():
                del left[number]
            elif claims[0].take(name := f"{corpus}-{number:06}"):
                taken = [claims[0], *(of_store for of_store in claims[1:] if of_store.take(name))]
                for one in lacking:
                    one.update()  # another may have encoded it just before
                yield number
                for of_store in taken:
                    of_store.release(name)
                del left[number]
                took = True
        if left and not took:
            if not told:
                observer.begin("waiting for parts that other processes encode", 0)
            told = True
            sleep(POLL_SECONDS)


def _encode_part(
    part: NDArray[np.int64],
    stores: Sequence[tuple[EncodingJob, ActivationStore]],
    lacking: Sequence["_Lacking"],
) -> int:
    """Encode what the stores lack of a part; return how many texts."""
    lacks = [one.of(part) for one in lacking]
    some = _lacking_somewhere(part, lacking)
    texts = part[some]
    if not len(texts):
        return 0
    job = stores[0][0]
    sequences = job.corpus.sequences.take(torch.from_numpy(texts))
    shards: dict[int, ShardFile] = {}
    prefixes = [of.prefix for of, _ in stores]
    try:
        batches = encode_batches(prefixes, sequences, device=job.device, dtype=job.dtype)
        for number, rows, activations in batches:
            wanted = torch.from_numpy(lacks[number][some])[rows]
            if not wanted.any():
                continue
            if number not in shards:
                shards[number] = stores[number][1].new_shard()
            digests = lacking[number].digests.take(texts[rows[wanted].numpy()])
            lengths = torch.full((len(digests),), activations.shape[1])
            shards[number].append(digests, activations[wanted].flatten(0, 1), lengths)
        for number, shard in shards.items():
            lacking[number].update()
            if (lacks[number] & lacking[number].of(part)).any():  # else this process was taken for dead meanwhile
                stores[number][1].add_beside(shard)
    finally:
        for shard in shards.values():
            shard.discard()
    return len(texts)


class _Lacking:
    """Which texts a store lacks, as shards are added to it.

    Args:
        check: whether to compare every shard that is there with its sha256.

    Attributes:
        digests: of all texts.
    """

    def __init__(self, digests: Digests, store: ActivationStore, *, check: bool = True) -> None:
        self.digests = digests
        self._store = store
        self._lacks = np.ones(len(digests), np.bool_)
        self._seen: set[Shard] = set()
        self._look(check=check)

    @property
    def texts(self) -> NDArray[np.int64]:
        """The numbers of the texts that it lacks."""
        return places_of(self._lacks)

    def update(self) -> None:
        """Look at shards that others have added."""
        self._look(check=False)

    def _look(self, *, check: bool) -> None:
        for shard in set(self._store.listed_shards()) - self._seen:
            self._seen.add(shard)
            if not check or self._store.is_sound(shard):
                self._lacks[self._store.numbers_in(shard, self.digests)] = False

    def of(self, texts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some texts it lacks."""
        lacks: NDArray[np.bool_] = self._lacks[texts]
        return lacks


def _lacking_somewhere(texts: NDArray[np.int64], lacking: Sequence[_Lacking]) -> NDArray[np.bool_]:
    """Return which of some texts some store lacks."""
    found: NDArray[np.bool_] = np.logical_or.reduce([one.of(texts) for one in lacking])
    return found


def _name_of(stores: Sequence[tuple[EncodingJob, ActivationStore]]) -> str:
    """A name that processes share which encode the same corpus for the same stores."""
    digest = hashlib.sha256()
    for job, store in stores:
        digest.update(store.key.digest.encode())
        digest.update(job.digests.values.data)
    return digest.hexdigest()[:16]
