"""Write files and folders so that a reader sees all of one or nothing of it."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from topwork.errors import StorageError, reason_of

#: How the names of files and folders end that are being written.
UNFINISHED = ".unfinished"


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep the name of a folder that is to be made for this thread, until the block ends.

    What killed processes left unfinished beside it is removed.

    Raises:
        StorageError: ``folder`` exists already, another process keeps it, or its parent cannot be written to.
    """
    if os.path.lexists(folder):
        raise StorageError(f"{folder} exists already; nothing is overwritten, so give another name or remove it")
    lock = _lock_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except Timeout:
        if not Path(lock.lock_file).exists():  # no file can be made there
            raise _unwritable(folder, OSError(errno.EACCES, os.strerror(errno.EACCES))) from None
        holder = _read_holder(lock)
        raise StorageError(f"{folder} is being made by {holder}; give another name, or wait for it") from None
    except OSError as error:
        lock.release()
        raise _unwritable(folder, error) from error
    try:
        _remove_abandoned(folder.parent)
        yield
    finally:
        _release(lock)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` to fill; at the end it is synced and takes that name.

    Raises:
        StorageError: ``folder`` exists already, or something could not be written; then nothing is left behind.
    """
    with reserved(folder):
        temporary: Path | None = None
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=UNFINISHED, dir=folder.parent))
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                path.chmod(0o755 if path.is_dir() else 0o644)  # a colleague may read it too
                _sync(path)
            temporary.rename(folder)
            _sync(folder.parent)
        except OSError as error:
            raise _unwritable(folder, error) from error
        finally:
            if temporary is not None and temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)


def check_room(folder: Path, size: int) -> None:
    """Check that a folder of ``size`` bytes could be made now.

    Raises:
        StorageError: its disk has less room.
    """
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise StorageError(
            f"{folder} needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there; "
            "make room, or give a folder on another disk"
        )


@contextmanager
def new_database(file: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``file`` to create a sqlite database under; at the end it takes that name.

    So a process that is killed leaves no half of a database. Where ``file`` is there by then, it stays. One process
    of a user at a time should do this: it removes what others left unfinished.

    Raises:
        OSError: the disk, or its folder, does not allow it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in file.parent.glob(f".{glob.escape(file.name)}.*{UNFINISHED}*"):
        abandoned.unlink(missing_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield temporary
        _sync(temporary)
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not file.exists():
                temporary.rename(file)
        _sync(file.parent)
    finally:
        for left in file.parent.glob(f"{glob.escape(temporary.name)}*"):  # sqlite's journal is named after it
            left.unlink(missing_ok=True)


def make_folder(folder: Path, root: Path) -> None:
    """Make ``folder``, inside ``root``, with the mode of ``root``: who may write there may write in all of it.

    Raises:
        OSError: it cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    for path in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)][1:]:
        with suppress(FileExistsError):
            (root / path).mkdir()
            (root / path).chmod(stat.S_IMODE(root.stat().st_mode))


def file_mode(root: Path) -> int:
    """The mode of files in ``root``: all may read them; the group may write them if it may write ``root``."""
    return 0o664 if root.stat().st_mode & stat.S_IWGRP else 0o644


def write_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write ``content`` to ``path`` in one step, replacing what was there.

    Raises:
        StorageError: it could not be written; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {reason_of(error)}") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {reason_of(error)}") from None


def _lock_of(folder: Path) -> FileLock:
    """The lock that keeps a folder's name; the same object for all who ask in this process."""
    return FileLock(folder.parent.absolute() / f".{folder.name}.lock", timeout=0, is_singleton=True)


def _read_holder(lock: FileLock) -> str:
    try:
        return Path(lock.lock_file).read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"  # which has just let go of it


def _release(lock: FileLock) -> None:
    if lock.lock_counter == 1:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is held: who waits for it sees that it is gone, and makes another
    lock.release()


def _remove_abandoned(parent: Path) -> None:
    """Remove the unfinished folders whose makers are gone, which have let go of their locks."""
    for abandoned in (path for path in parent.glob(f".*{UNFINISHED}") if path.is_dir()):
        name = abandoned.name.removeprefix(".").removesuffix(UNFINISHED).rpartition(".")[0]
        lock = _lock_of(parent / name)
        with suppress(Timeout, OSError):
            lock.acquire()
            if lock.lock_counter == 1:  # else this very process is at it
                shutil.rmtree(abandoned, ignore_errors=True)
            _release(lock)


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"{folder} could not be written: {reason_of(error)}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
