"""From the bytes of a file to its text."""

import codecs
from pathlib import Path

from topwork.errors import DataError, first_line
from topwork.experiment.encoding import find_codec

#: Marks at the beginning of a file that no UTF-8 has; the longer first, since one begins with another.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(path: Path, content: bytes, encoding: str) -> tuple[str, tuple[str, ...]]:
    """Decode text, dropping a byte-order mark; return it with what is to be said about it.

    Where UTF-8 is asked for, a byte-order mark of UTF-16 or UTF-32 decides otherwise.

    Raises:
        DataError: names line, byte and the option to set.
    """
    try:
        codec = find_codec(encoding)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    notes: tuple[str, ...] = ()
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if codec == "utf-8" and marked:
        codec = marked
        notes = (f"{path} is read in {marked}, as its byte-order mark says; set `encoding: {marked}` of the source",)
    if not codec.startswith(("utf-16", "utf-32")) and (likely := _utf16_without_mark(content)):
        raise DataError(f"{path}: this looks like {likely} without a byte-order mark; set `encoding: {likely}`")
    try:
        return content.decode(codec).removeprefix("\ufeff"), notes
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(codec, "replace").count("\n") + 1
        at = f"byte {error.start} (0x{content[error.start]:02x})" if error.start < len(content) else "its end"
        raise DataError(
            f"{path}:{line}: {at} is not {encoding}; set `encoding` of the source, for example `encoding: latin-1`"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{path}: this is not {encoding}: {first_line(error)}; set `encoding` of the source") from None


def _utf16_without_mark(content: bytes) -> str | None:
    """Which UTF-16 this is, by line ends, blanks and commas, every second byte of which is NUL."""
    sample = content[:2000]
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
