"""The cache folder as a whole: where it is, what it holds, what of it is damaged, and how to be rid of it."""

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from platformdirs import user_cache_path

from topwork.engine.encoding.store.activation_store import has_claims, lock_of
from topwork.engine.encoding.store.manifest import MANIFEST, Manifest, read_manifest
from topwork.errors import ConfigurationError, StorageError, reason_of
from topwork.files import make_folder, sha256_of


def cache_folder() -> Path:
    """Return the folder that everything computed is kept in: TOPWORK_CACHE, or else the user's cache folder.

    Raises:
        ConfigurationError: TOPWORK_CACHE names the home folder of nobody, or is not set and there is no home folder.
    """
    given = os.environ.get("TOPWORK_CACHE")
    try:
        return Path(given).expanduser().absolute() if given else user_cache_path("topwork")
    except RuntimeError as error:
        if given:
            raise ConfigurationError(f"TOPWORK_CACHE is {given}, but there is no such home folder: {error}") from None
        raise ConfigurationError("there is no home folder to keep a cache in; set TOPWORK_CACHE to a folder") from None


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the activation store.

    Attributes:
        key: its name, a sha256 in hexadecimal.
        manifest: None where it is damaged, or not written yet; then the folder holds nothing of use.
        damaged: whether the manifest is.
        bytes: the size of all its files.
        unused: days since it was last of use.
    """

    folder: Path
    key: str
    manifest: Manifest | None
    damaged: bool
    bytes: int
    unused: float

    @property
    def texts(self) -> int:
        """How many texts it holds."""
        return sum(shard.texts for shard in self.manifest.shards) if self.manifest else 0

    def errors(self) -> list[str]:
        """Read every shard and say what is wrong, file by file."""
        if self.damaged:
            return [f"{self.folder / MANIFEST}: it is damaged"]
        shards = self.manifest.shards if self.manifest else ()
        errors = {shard: why for shard in shards if (why := _shard_error(self.folder / shard.file, shard.sha256))}
        now = read_manifest(self.folder) if errors else None  # a build may have replaced shards while we read
        return [f"{self.folder / shard.file}: {why}" for shard, why in errors.items() if now and shard in now.shards]


def list_entries(root: Path) -> list[CacheEntry]:
    """Return all folders of the store, the last used first.

    Raises:
        StorageError: the cache cannot be read.
    """
    if root.exists() and not root.is_dir():
        raise StorageError(f"{root} is not a folder; set TOPWORK_CACHE to one")
    try:
        inside = (root / "activations").iterdir() if (root / "activations").exists() else ()
        folders = [path for path in inside if path.is_dir()]
        found = [entry for folder in folders if (entry := _read_entry(folder))]
        return sorted(found, key=lambda entry: (entry.unused, entry.key))
    except OSError as error:
        raise StorageError(f"{root} cannot be read: {reason_of(error)}") from error


def prune(root: Path, *, keys: Sequence[str], unused: float | None) -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Remove folders whose key starts with one of ``keys``, or that were of no use for ``unused`` days.

    Runs that read a folder are not disturbed: what they have mapped stays until they end.

    Returns:
        What was removed, and what was not because a process is adding to it.

    Raises:
        ConfigurationError: a key is that of no folder.
        StorageError: something could not be removed.
    """
    found = list_entries(root)
    unknown = [repr(key) for key in keys if not key or not any(entry.key.startswith(key) for entry in found)]
    if unknown:
        raise ConfigurationError(f"nothing is stored under {', '.join(unknown)}; `topwork cache list` shows the keys")
    removed, busy = [], []
    for entry in found:
        named = any(entry.key.startswith(key) for key in keys)
        if not named and (unused is None or entry.unused < unused):
            continue
        if has_claims(entry.folder):
            busy.append(entry)
            continue
        try:
            make_folder(root / "locks", root)
            with lock_of(root, entry.key).acquire(timeout=0):
                (entry.folder / MANIFEST).unlink(missing_ok=True)  # first, so that no reader finds half a folder
                with suppress(FileNotFoundError):  # another prune was quicker
                    shutil.rmtree(entry.folder)
        except Timeout:
            busy.append(entry)
        except OSError as error:
            raise StorageError(f"{entry.folder} cannot be removed: {reason_of(error)}") from error
        else:
            removed.append(entry)
    return removed, busy


def _read_entry(folder: Path) -> CacheEntry | None:
    """Look at a folder; None if it is gone."""
    manifest, damaged = None, False
    try:
        manifest = read_manifest(folder)
    except ValueError:
        damaged = True
    size = 0
    try:
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # a build replaces files
                size += path.stat().st_size
        unused = (time.time() - folder.stat().st_mtime) / 86400
    except FileNotFoundError:
        return None
    return CacheEntry(folder, folder.name, manifest, damaged, size, unused)


def _shard_error(path: Path, sha256: str) -> str | None:
    try:
        found = sha256_of(path)
    except StorageError as error:
        return str(error).removeprefix(f"{path} ")
    return None if found == sha256 else f"its sha256 is {found[:12]}..., not {sha256[:12]}..."
