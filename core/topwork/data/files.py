"""From a path in an experiment to the bytes of its files: patterns of names, and compressed files."""

import gzip
import hashlib
import lzma
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from topwork.errors import DataError, first_line, reason_of

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
    return join_digests([hashlib.sha256(read_file(file)).hexdigest() for file in find_files(path)])


def join_digests(digests: Sequence[str]) -> str:
    """Return one digest for those of several files."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def format_suffix(path: Path) -> str:
    """The suffix that says how a file is read, in lower case: ``.csv`` of ``rows.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from None


def decompress(path: Path, content: bytes) -> bytes:
    """Return what a file holds: its bytes, or what they are compressed from, as the suffix says.

    Raises:
        DataError: they cannot be decompressed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            return gzip.decompress(content)
        if suffix == ".xz":
            return lzma.decompress(content)
        if suffix == ".zst":
            import pyarrow

            with pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd") as stream:
                decompressed: bytes = stream.read()
                return decompressed
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: not a readable {suffix} file: {first_line(error)}") from None
    return content
