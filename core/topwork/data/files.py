"""From a path in an experiment to the bytes of its files: patterns of names, and compressed files."""

import gzip
import hashlib
import lzma
import mmap
import os
import re
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from topwork.errors import DataError, first_line, reason_of
from topwork.mapped import no_room

#: Opens bytes that may be more than memory holds, each time at their beginning.
OpenBytes = Callable[[], BufferedIOBase]

#: What is read compressed, by the last suffix.
COMPRESSED = (".gz", ".zst", ".xz")

#: What makes a name a pattern.
_PATTERN = re.compile(r"[*?\[]")


def find_files(path: Path) -> list[Path]:
    """Return the file, or the files that a pattern such as ``part-*.csv`` names, sorted by name.

    Raises:
        DataError: no file has such a name.
    """
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if _PATTERN.search(part)), None)
    if first is None or path.exists():
        return [path]
    found = sorted(file for file in Path(*parts[:first]).glob("/".join(parts[first:])) if file.is_file())
    if not found:
        raise DataError(f"{path}: no file has such a name")
    return found


def is_one_of(file: Path, path: Path) -> bool:
    """Whether a file is one of several that a pattern names."""
    try:
        return file.resolve() in [one.resolve() for one in find_files(path)]
    except DataError:  # there is none any more
        return False


def digest_of_files(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal; of several files, that of their digests in a row.

    Raises:
        DataError: one cannot be read.
    """
    return join_digests([digest_of(open_file(file)) for file in find_files(path)])


def digest_of(content: OpenBytes) -> str:
    """Return the sha256 of some bytes, in hexadecimal."""
    with content() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def join_digests(digests: Sequence[str]) -> str:
    """Return one digest for those of several files."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def format_suffix(path: Path) -> str:
    """The suffix that says how a file is read, in lower case: ``.csv`` of ``rows.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def open_file(path: Path) -> OpenBytes:
    """Return what opens a file.

    Raises:
        DataError: it cannot be read.
    """
    content = cast("OpenBytes", partial(path.open, "rb"))
    try:
        with content() as stream:
            stream.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from None
    return content


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size of a file and the time of its last change, to tell whether it changes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from None
    return found.st_size, found.st_mtime_ns


def decompress(path: Path, content: OpenBytes) -> OpenBytes:
    """Return what a file holds: its bytes, or what they are compressed from, as the suffix says.

    Raises:
        DataError: they cannot be decompressed.
        StorageError: the disk has no room for them.
    """
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return content
    temporary, size = TemporaryContent(), 0
    with content() as compressed:
        try:
            for part in _decompressed(path, suffix, compressed):
                size += len(part)
                temporary.file.write(part)
            return temporary.finish()
        except OSError as error:
            raise no_room(size, error) from None


def _decompressed(path: Path, suffix: str, compressed: BufferedIOBase) -> Iterator[bytes]:
    try:
        with _decompressing(suffix, compressed) as stream:
            while part := stream.read(1024 * 1024):
                yield part
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: not a readable {suffix} file: {first_line(error)}") from None


def _decompressing(suffix: str, compressed: BufferedIOBase) -> BufferedIOBase:
    if suffix == ".gz":
        return cast("BufferedIOBase", gzip.open(cast("BinaryIO", compressed)))
    if suffix == ".xz":
        return lzma.open(cast("BinaryIO", compressed))
    import pyarrow

    return cast("BufferedIOBase", pyarrow.CompressedInputStream(pyarrow.PythonFile(compressed, "r"), "zstd"))


class TemporaryContent:
    """Bytes in a temporary file that has no name, so that nothing is left of it when a process is killed.

    Attributes:
        file: to write them to.
    """

    def __init__(self) -> None:
        self.file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - it lives as long as this does
        weakref.finalize(self, self.file.close)

    def finish(self) -> OpenBytes:
        """Return what opens the bytes. Nothing can be added any more.

        Raises:
            OSError: the disk has no room for them.
        """
        self.file.flush()
        with self.file as file:
            size = os.fstat(file.fileno()).st_size
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        return lambda: BufferedReader(_Reader(content), 128 * 1024)


class _Reader(RawIOBase):
    """Reads from memory of which it makes no copy, other than ``io.BytesIO``."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable bytes
        part = self.content[self.position : self.position + len(buffer)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        begin = {SEEK_SET: 0, SEEK_CUR: self.position, SEEK_END: len(self.content)}[whence]
        self.position = max(0, begin + offset)
        return self.position
