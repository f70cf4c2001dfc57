"""Arrays that may be larger than memory: they lie in temporary files, mapped into memory, which are gone with them.

The files are where temporary files are, so TMPDIR moves them to another disk. They have no name, so nothing is left of
them when a process is killed.
"""

import math
import mmap
import os
import sys
import tempfile
import weakref
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from topwork.errors import StorageError, reason_of

#: Arrays of fewer bytes stay in memory.
SMALL = 1024 * 1024

#: Numbers that are looked at together, so that what that needs does not grow with their count.
AT_ONCE = 50_000


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros that can be written to.

    Raises:
        StorageError: the disk has no room for it.
    """
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    if size < SMALL:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            if sys.platform == "linux":  # else a full disk ends the process when a page is written
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return _mapped(file, dtype).reshape(shape)
    except OSError as error:
        raise no_room(size, error) from None


def places_of(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places at which a mask (N,) is true, without more memory than some of them need.

    Raises:
        StorageError: the disk has no room for them.
    """
    places, done = zeros(int(np.count_nonzero(mask)), np.int64), 0
    for first in range(0, len(mask), AT_ONCE):
        some = np.flatnonzero(mask[first : first + AT_ONCE])
        places[done : done + len(some)] = first + some
        done += len(some)
    return places


class ArrayWriter:
    """Makes an array of parts, as they come, of which none stays in memory.

    Args:
        dtype: of the array.
        columns: the shape of each of its rows; numbers without.
    """

    def __init__(self, dtype: DTypeLike, columns: tuple[int, ...] = ()) -> None:
        self.dtype = np.dtype(dtype)
        self.columns = columns
        self.count = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this does
        weakref.finalize(self, self._file.close)  # also where it is given up

    def append(self, rows: NDArray[Any]) -> None:
        """Add some rows.

        Raises:
            StorageError: the disk has no room for them.
        """
        content = np.ascontiguousarray(rows, self.dtype)
        try:
            self._file.write(content.data.cast("B") if content.size else b"")
        except OSError as error:
            raise no_room(content.nbytes, error) from None
        self.count += len(content)

    def finish(self) -> NDArray[Any]:
        """Return all rows, an array that can be written to. Nothing can be added any more."""
        with self._file as file:
            file.flush()
            if file.tell() < SMALL:
                file.seek(0)
                array = np.frombuffer(bytearray(file.read()), self.dtype)
            else:
                array = _mapped(file, self.dtype)
        return array.reshape(self.count, *self.columns)


def _mapped(file: BinaryIO, dtype: DTypeLike) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), 0), dtype)


def no_room(size: int, error: OSError) -> StorageError:
    """Say that a temporary file of ``size`` bytes cannot be written."""
    return StorageError(
        f"{size / 1e6:,.1f} MB for temporary files could not be written to {tempfile.gettempdir()}: "
        f"{reason_of(error)}; set TMPDIR to a folder with more room"
    )
