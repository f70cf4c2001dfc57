"""From the bytes of a file to its text."""

import codecs
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from topwork.data.files import OpenBytes
from topwork.errors import DataError, first_line
from topwork.experiment.encoding import find_codec

#: Opens a text that may be more than memory holds, each time at its beginning. It is given ``newline``, as ``io.open``
#: has it: "" ends lines where a reader of CSV does, and "\\n" at line feeds alone.
OpenText = Callable[[str], TextIO]

#: How many bytes are looked at to tell an encoding, and how many are decoded at once.
_SAMPLE, _MANY_BYTES = 2000, 1024 * 1024

#: Marks at the beginning of a file that no UTF-8 has; the longer first, since one begins with another.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(path: Path, content: OpenBytes, encoding: str) -> tuple[OpenText, tuple[str, ...]]:
    """Check that bytes are text; return what opens it without a byte-order mark, with what is to be said about it.

    Where UTF-8 is asked for, a byte-order mark of UTF-16 or UTF-32 decides otherwise.

    Raises:
        DataError: names line, byte and the option to set.
    """
    try:
        codec = find_codec(encoding)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    with content() as stream:
        sample = stream.read(_SAMPLE)
    notes: tuple[str, ...] = ()
    marked = next((name for mark, name in _MARKS.items() if sample.startswith(mark)), None)
    if codec == "utf-8" and marked:
        codec = marked
        notes = (f"{path} is read in {marked}, as its byte-order mark says; set `encoding: {marked}` of the source",)
    if not codec.startswith(("utf-16", "utf-32")) and (likely := _utf16_without_mark(sample)):
        raise DataError(f"{path}: this looks like {likely} without a byte-order mark; set `encoding: {likely}`")
    if codec in ("utf-16", "utf-32") and not marked:  # as ``bytes.decode`` has it, and a decoder of streams has not
        codec += "-le" if sys.byteorder == "little" else "-be"
    begin = _check(path, content, codec, encoding)
    return partial(_open, content, codec, begin == "\ufeff"), notes


def _check(path: Path, content: OpenBytes, codec: str, encoding: str) -> str:
    """Return the first character of a text, having read it all.

    Raises:
        DataError: names line, byte and the option to set.
    """
    begin, size = "", 0
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        with content() as stream:
            while part := stream.read(_MANY_BYTES):
                size += len(part)
                text = decoder.decode(part)
                begin = begin or text[:1]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _wrong_byte(path, content, size, codec, encoding) from None
    except UnicodeError as error:
        raise DataError(f"{path}: this is not {encoding}: {first_line(error)}; set `encoding` of the source") from None
    return begin


def _wrong_byte(path: Path, content: OpenBytes, size: int, codec: str, encoding: str) -> DataError:
    """Say where among the first ``size`` bytes is the one that is wrong."""
    with content() as stream:
        read = stream.read(size)
    try:
        read.decode(codec)
    except UnicodeDecodeError as error:
        line = read[: error.start].decode(codec, "replace").count("\n") + 1
        at = f"byte {error.start} (0x{read[error.start]:02x})" if error.start < len(read) else "its end"
        return DataError(
            f"{path}:{line}: {at} is not {encoding}; set `encoding` of the source, for example `encoding: latin-1`"
        )
    return DataError(f"{path}: this is not {encoding}; set `encoding` of the source")


def _open(content: OpenBytes, codec: str, marked: bool, newline: str) -> TextIO:
    """Open text that was checked. ``marked`` says whether it begins with a byte-order mark, which is passed over."""
    text = io.TextIOWrapper(cast("BinaryIO", content()), codec, errors="replace", newline=newline)
    if marked:
        text.read(1)
    return text


def _utf16_without_mark(sample: bytes) -> str | None:
    """Which UTF-16 a text begins in, by line ends, blanks and commas, every second byte of which is NUL."""
    if b"\0" not in sample:
        return None
    for codec in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(codec)().decode(sample)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and any(character in text for character in "\n\t ,;:"):
            return codec
    return None
