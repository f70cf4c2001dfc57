"""One folder of the activation store: shards, and a manifest that says which of them count.

A shard is a safetensors file with the activations of some texts: ``values`` (rows, D), ``offsets`` (texts + 1,) and
``digests`` (texts, 32), of each text's token ids and what heads read of it; see ``Sequences.digests``. It is named by
its own sha256 and never changed.
The manifest is replaced in one step after the shards it names are on disk, so a process killed at any moment
leaves either the old state or the new one, and files that the manifest does not name, which the next build removes.
Where several processes add shards at a time, each names its own in a file beside the manifest, until one of them takes
these names into it; see ``Claims`` for how they share the work.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError

from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.claims import Claims, flock_works
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST, NAMED_BESIDE, Manifest, Shard, read_manifest, shards_beside
from topwork.engine.encoding.store.shard_file import ShardFile, open_shard
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.errors import StorageError, first_line, reason_of
from topwork.files import file_mode, make_folder, sha256_of, write_file
from topwork.mapped import zeros

#: Bytes of values after which a shard is written; what a build has not written yet is lost when it is killed.
SHARD_BYTES = 512 * 1024 * 1024

#: Shards of fewer bytes together are made one as soon as there are two; of more, once there are more than so many.
MERGED_AT_ONCE, MAX_SHARDS = 64 * 1024 * 1024, 8

#: The folder of claims.
CLAIMS = "claims"

logger = logging.getLogger(__name__)


class ActivationStore:
    """The activations that one prefix gave, under the cache folder ``root``."""

    def __init__(self, root: Path, key: Key) -> None:
        self.key = key
        self.root = root
        self.folder = root / "activations" / key.digest
        self._sound: set[Shard] = set()  # checked against their sha256, once in this object's life
        self._damaged: dict[Shard, str] = {}  # and what is wrong with them
        self._warned: set[str] = set()
        self._beside: dict[Path, Shard] = {}  # by the files that name them

    def find(self, digests: Digests) -> StoredActivations:
        """Look U texts up by their digests.

        A damaged shard counts as absent, with a warning; what it held is missing and will be computed again.

        Raises:
            StorageError: the folder cannot be read.
        """
        self._damaged.clear()
        shard_index, position = zeros(len(digests), np.int64), zeros(len(digests), np.int64)
        shard_index[:] = -1
        shards: list[Ragged] = []
        named = self.listed_shards()
        for record in named:
            opened = self._open(record)
            if opened is None:
                continue
            found = False
            for numbers, places in digests.find(opened[0]):
                if len(numbers) and self.is_sound(record):
                    shard_index[numbers], position[numbers], found = len(shards), places, True
            if found:
                shards.append(opened[1])
        if self._damaged and self._named() != named:  # another process has replaced shards while we looked
            return self.find(digests)
        for damaged, why in self._damaged.items():
            self._warn(f"{self.folder / damaged.file} is damaged: {why}; its {damaged.texts} texts are encoded again")
        if shards:
            with suppress(OSError):  # it may belong to somebody else
                os.utime(self.folder)  # when it was last of use
        return StoredActivations(self.folder, tuple(shards), torch.from_numpy(shard_index), torch.from_numpy(position))

    def numbers_in(self, shard: Shard, digests: Digests) -> NDArray[np.int64]:
        """Return the numbers of those texts that are in a shard; of one that is damaged or gone none."""
        opened = self._open(shard)
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(numbers for numbers, _ in digests.find(opened[0]))]) if opened else none

    def create(self) -> None:
        """Write a manifest where there is none, so that others can see what the folder is of. Only while ``building``.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            there = read_manifest(self.folder)
        except ValueError:
            there = None  # a damaged one would hide what is added
        if there is None:
            self._write_manifest([])

    def listed_shards(self) -> list[Shard]:
        """Return the shards that the manifest names and that are not known to be damaged."""
        return [shard for shard in self._named() if shard not in self._damaged]

    def is_sound(self, shard: Shard) -> bool:
        """Whether a shard's bytes are those that were written."""
        if shard not in self._sound:
            try:
                found = sha256_of(self.folder / shard.file)
            except StorageError as error:
                self._damaged[shard] = str(error)
                return False
            if found != shard.sha256:
                self._damaged[shard] = f"its sha256 is {found[:12]}..., not {shard.sha256[:12]}..."
                return False
            self._sound.add(shard)
        return True

    @contextmanager
    def building(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Let one process at a time add shards; ``waiting`` is called once if another is at it.

        The lock is the kernel's, so that it ends with the process that holds it, even one that is killed; where the
        file system has none, it is a claim.

        Raises:
            StorageError: the folder cannot be written.
        """
        with self._locked(waiting):
            self._take_in()
            self._remove_unnamed_files()
            yield
            self._take_in()
            self._remove_unnamed_files()

    @contextmanager
    def _locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        try:
            make_folder(self.root / "locks", self.root)
            if not flock_works(self.root / "locks"):
                with self.open_claims() as claims, claims.holding("building", waiting):
                    yield
                return
            lock = lock_of(self.root, self.key.digest)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                lock.acquire()
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {reason_of(error)}") from error
        try:
            yield
        finally:
            lock.release()

    def open_claims(self) -> Claims:
        """Return the claims of this process to parts of what is to be added.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            make_folder(self.folder / CLAIMS, self.root)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {reason_of(error)}") from error
        return Claims(self.folder / CLAIMS)

    def is_shared(self) -> bool:
        """Whether some process adds shards part by part, which others can join."""
        return has_claims(self.folder)

    def new_shard(self) -> ShardFile:
        """Begin a shard, which counts for nothing before it is added. Call only while ``building``, or with a claim.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            make_folder(self.folder, self.root)
            return ShardFile(self.folder, mode=file_mode(self.root))
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {reason_of(error)}") from error

    def add(self, file: ShardFile) -> None:
        """Finish a shard, and write the manifest that names it. Call only while ``building``.

        Raises:
            StorageError: it could not be written; the store is as it was.
        """
        self._replace([], file)

    def add_beside(self, file: ShardFile) -> None:
        """Finish a shard, and name it beside the manifest, as any number of processes may do at a time.

        Raises:
            StorageError: it could not be written; the store is as it was.
        """
        shard = self._finish(file)
        path = self.folder / f"{shard.sha256}{NAMED_BESIDE}"
        write_file(path, shard.model_dump_json().encode(), mode=file_mode(self.root))

    def tidy(self) -> None:
        """Do what a build that was killed left undone: remove its files, merge its shards. Changes no activation."""
        with (
            suppress(OSError, Timeout),
            lock_of(self.root, self.key.digest).acquire(timeout=0),
        ):  # whoever holds the lock does it himself
            self._take_in()
            self._remove_unnamed_files()
            self.merge()
            self._remove_unnamed_files()

    def merge(self) -> None:
        """Make one shard of as many as fit into one, while they are small or many.

        Where that cannot be written, all stays as it was.

        Call only while ``building``.
        """
        while self._merge_some():
            pass

    def _merge_some(self) -> bool:
        """Merge some shards; return whether there were any to merge."""
        group: list[Shard] = []
        named, beside = (
            self._in_manifest(),
            shards_beside(self.folder, self._beside),
        )  # of the latter others may still look at each
        candidates = [shard for shard in named if shard not in self._damaged and shard not in beside]
        for shard in sorted(candidates, key=lambda shard: (shard.bytes, shard.sha256)):
            if sum(other.bytes for other in group) + shard.bytes <= SHARD_BYTES and self.is_sound(shard):
                group.append(shard)
        if len(group) <= MAX_SHARDS and sum(shard.bytes for shard in group) > MERGED_AT_ONCE:
            return False
        parts = [opened for shard in group if (opened := self._open(shard))]
        if len(parts) < 2:
            return False
        try:
            file = self.new_shard()
            for digests, activations in parts:
                file.append(digests, activations.values, activations.lengths)
            self._replace(group, file)
        except StorageError:  # many small shards serve as well
            return False
        return True

    def _finish(self, file: ShardFile) -> Shard:
        sha256, size = file.finish()
        shard = Shard(sha256=sha256, bytes=size, texts=file.texts)
        self._damaged.pop(shard, None)
        self._sound.add(shard)
        return shard

    def _replace(self, old: Sequence[Shard], file: ShardFile) -> None:
        shard, named = self._finish(file), self._in_manifest()
        kept = [other for other in named if other not in self._damaged and other not in (*old, shard)]
        self._write_manifest([*kept, shard])

    def _write_manifest(self, shards: Sequence[Shard]) -> None:
        manifest = Manifest(key=self.key.description, shards=tuple(shards))
        write_file(self.folder / MANIFEST, manifest.model_dump_json(indent=2).encode(), mode=file_mode(self.root))

    def _take_in(self) -> None:
        """Name in the manifest what is named beside it."""
        if beside := list(self.folder.glob(f"*{NAMED_BESIDE}")):
            self._write_manifest(self.listed_shards())
            for path in beside:
                path.unlink(missing_ok=True)

    def _named(self) -> list[Shard]:
        """Return the shards that the manifest names, and those that are named beside it."""
        beside = shards_beside(self.folder, self._beside)  # first: what is no longer there is in the manifest by then
        return list(dict.fromkeys([*self._in_manifest(), *beside]))

    def _in_manifest(self) -> list[Shard]:
        """Return the shards that the manifest itself names; without a valid manifest there are none."""
        try:
            manifest = read_manifest(self.folder)
        except ValueError:
            self._warn(f"{self.folder / MANIFEST} is damaged; what its folder held is encoded again")
            return []
        return list(manifest.shards) if manifest else []

    def _open(self, shard: Shard) -> tuple[Digests, Ragged] | None:
        """Map a shard into memory: the digests of its texts, and their activations; None if it is damaged."""
        path = self.folder / shard.file
        try:
            size = path.stat().st_size
            if size == shard.bytes:
                return open_shard(path)
            self._damaged[shard] = f"it has {size:,} of {shard.bytes:,} bytes"
        except (OSError, SafetensorError) as error:
            self._damaged[shard] = first_line(error)
        return None

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            logger.warning("activation store: %s", message)
            self._warned.add(message)

    def _remove_unnamed_files(self) -> None:
        """Remove the files that the manifest does not name: replaced shards, and what killed builds have left."""
        files = [path for path in self.folder.glob("*") if path.is_file() and not path.name.endswith(NAMED_BESIDE)]
        if self.is_shared():
            return  # some may be what others are writing
        wanted = {MANIFEST, *(shard.file for shard in self._named())}  # now: whoever wrote one has named it
        for path in files:
            if path.name not in wanted:
                with suppress(OSError):  # what stays is only in the way of the disk
                    path.unlink()


def lock_of(root: Path, key: str) -> FileLock:
    """The lock of one folder of the store, for all who may write the cache folder ``root``.

    Raises:
        OSError: ``root`` cannot be read.
    """
    return FileLock(root / "locks" / f"{key}.lock", mode=file_mode(root))


def has_claims(folder: Path) -> bool:
    """Whether a living process has claimed a part of what is to be added to a folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not (folder / CLAIMS).is_dir():
        return False
    with Claims(folder / CLAIMS) as claims:
        return claims.others()
