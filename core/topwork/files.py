"""Write files and folders so that a reader sees all of one or nothing of it."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from topwork.errors import StorageError, reason_of


def check_new_folder(folder: Path) -> None:
    """Check, before hours of work, that ``folder`` can be made.

    Raises:
        StorageError: it exists already, or its parent cannot be written to.
    """
    with new_folder(folder):
        pass
    folder.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` to fill; at the end it is synced and takes that name.

    Raises:
        StorageError: ``folder`` exists already, or something could not be written; then nothing is left behind.
    """
    temporary: Path | None = None
    try:
        if os.path.lexists(folder):
            raise StorageError(f"{folder} exists already; nothing is overwritten, so give another name or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # a colleague may read it too
            _sync(path)
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise StorageError(f"{folder} could not be written: {reason_of(error)}") from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
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
            temporary.chmod(0o644)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
