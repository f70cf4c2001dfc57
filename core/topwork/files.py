"""Write files and folders so that a reader sees all of one or nothing of it."""

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from topwork.errors import StorageError, reason_of

#: How the names end of what is being written, and of the locks of those who write; a digest of the name stands before.
UNFINISHED, LOCK = ".topwork-unfinished", ".topwork-lock"

#: The moments that ``reach`` names.
FAULT_POINTS = (
    "folder made",
    "folder filled",
    "folder synced",
    "folder renamed",
    "file made",
    "file written",
    "file renamed",
    "removed from view",
)


def reach(point: str, path: Path) -> None:
    """Name a moment at which a process may end: the state on disk is whole before it and after it.

    Tests end processes there, with a hook for Python's audit events (``sys.addaudithook``); nobody else hears of it.

    Args:
        point: one of ``FAULT_POINTS``.
        path: what is being written.
    """
    sys.audit("topwork.reached", point, str(path))


@contextmanager
def reserved(folder: Path, *, existing: bool = False) -> Iterator[None]:
    """Keep the name of a folder that is to be made for this thread, until the block ends.

    What killed processes left unfinished beside it is removed.

    Args:
        existing: whether the folder may be there.

    Raises:
        StorageError: ``folder`` exists already, another process keeps it, or it cannot be made.
    """
    lock = _lock_of(folder)
    with ExitStack() as at_the_end:
        try:
            if not existing:
                _check_free(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            at_the_end.enter_context(_held(lock, timeout=0))
            if not existing:
                _check_free(folder)  # it may have been made since
            if lock.lock_counter == 1:
                if not folder.exists():
                    folder.mkdir()  # so that a name that cannot be is seen now
                    folder.rmdir()
                _remove_abandoned(folder.parent, _digest(folder))
        except Timeout:
            if not Path(lock.lock_file).exists():  # no file can be made there
                raise _unwritable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES))) from None
            holder = _read_holder(lock)
            raise StorageError(f"{folder} is being made by {holder}; give another name, or wait for it") from None
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield


@contextmanager
def holding(folder: Path, doing: str) -> Iterator[None]:
    """Keep a folder, which may exist, for this process until the block ends.

    Args:
        doing: what is done to it meanwhile, such as ``trained``.

    Raises:
        StorageError: another process keeps it, or no lock can be made beside it.
    """
    lock, made = _lock_of(folder), not folder.parent.exists()
    with ExitStack() as at_the_end:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if made:
                at_the_end.callback(_remove_if_empty, folder.parent)
            at_the_end.enter_context(_held(lock, timeout=0))
        except Timeout:
            raise StorageError(f"{folder} is being {doing} by {_read_holder(lock)}; wait for it, or end it") from None
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield


def is_held(folder: Path) -> bool:
    """Whether a process keeps a folder with ``holding`` or ``reserved``."""
    lock = _lock_of(folder)
    if lock.lock_counter:
        return True
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` to fill; at the end it is synced and takes that name.

    Raises:
        StorageError: ``folder`` exists already, or something could not be written; then nothing is left behind.
    """
    with reserved(folder):
        temporary: Path | None = None
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{_digest(folder)}.", suffix=UNFINISHED, dir=folder.parent))
            reach("folder made", folder)
            yield temporary
            reach("folder filled", folder)
            for path in [*temporary.rglob("*"), temporary]:
                path.chmod(0o755 if path.is_dir() else 0o644)  # a colleague may read it too
                sync(path)
            reach("folder synced", folder)
            temporary.rename(folder)
            reach("folder renamed", folder)
            sync(folder.parent)
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
            f"{folder} needs {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there; "
            "make room, or give a folder on another disk"
        )


def create_database(file: Path, build: Callable[[Path], None]) -> None:
    """Let ``build`` create a sqlite database where there is none, so that it appears whole or not at all.

    Args:
        build: creates a database under the name that it is given.

    Raises:
        OSError: the disk, or its folder, does not allow it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass  # where no file can be made, the lock would be waited for without end
    except OSError as error:
        raise OSError(f"no file can be made in {file.parent}: {reason_of(error)}") from None
    with _held(_lock_of(file), timeout=-1):
        if file.exists() and file.stat().st_size:
            return  # another process was quicker
        temporary = file.with_name(f".{_digest(file)}.database{UNFINISHED}")
        _remove_database(temporary)  # a killed process left it: it no longer holds the lock
        try:
            build(temporary)
            sync(temporary)
            temporary.replace(file)
            sync(file.parent)
        finally:
            _remove_database(temporary)


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
            reach("file made", path)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            reach("file written", path)
            temporary.replace(path)
            reach("file renamed", path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
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


def _digest(path: Path) -> str:
    """A short name that stands for a long one, whatever links lead to it."""
    return hashlib.sha256(os.fsencode(path.resolve().name)).hexdigest()[:12]


def _lock_of(path: Path) -> FileLock:
    """The lock of those who write a file or folder; the same object for all who ask in this process."""
    return FileLock(path.resolve().parent / f".{_digest(path)}{LOCK}", is_singleton=True)


@contextmanager
def _held(lock: FileLock, *, timeout: float) -> Iterator[None]:
    """Hold a lock, and say in its file who does. Nothing stays of it.

    Raises:
        filelock.Timeout: another process holds it.
    """
    path = Path(lock.lock_file)
    lock.acquire(timeout=timeout)
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and makes another
        lock.release()


def _read_holder(lock: FileLock) -> str:
    try:
        return Path(lock.lock_file).read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"  # which has just let go of it


def _remove_abandoned(parent: Path, own: str) -> None:
    """Remove the unfinished folders whose makers are gone, which have let go of their locks.

    Args:
        own: the digest of a folder whose lock this process has just taken, so that nobody makes it.
    """
    for abandoned in parent.iterdir():
        named = re.fullmatch(rf"\.([0-9a-f]{{12}})\.\w{{8}}{re.escape(UNFINISHED)}", abandoned.name)
        if not named or not abandoned.is_dir():
            continue
        lock = FileLock(parent.resolve() / f".{named[1]}{LOCK}", is_singleton=True)
        with suppress(Timeout, OSError), _held(lock, timeout=0):
            if lock.lock_counter == 1 or named[1] == own:  # else this very process is at it
                shutil.rmtree(abandoned, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_database(file: Path) -> None:
    """Remove a sqlite database with its journal, where there is one."""
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink(missing_ok=True)


def exists_error(folder: Path) -> StorageError:
    """Say that a folder is there which shall be made."""
    return StorageError(f"{folder} exists already; nothing is overwritten, so give another name or remove it")


def _check_free(folder: Path) -> None:
    if os.path.lexists(folder):
        raise exists_error(folder)


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"{folder} could not be written: {reason_of(error)}")


def sync(path: Path) -> None:
    """See that what a file or folder holds is on the disk.

    Raises:
        OSError: it could not be brought there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
