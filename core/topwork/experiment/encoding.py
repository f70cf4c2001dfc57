"""The encodings that a text file may have."""

import codecs

from topwork.errors import quote

#: Python's codecs for texts that are no files.
_NOT_OF_FILES = {"idna", "punycode", "rawunicodeescape", "undefined", "unicodeescape"}


def find_codec(encoding: str) -> str:
    """Return Python's name of an encoding.

    Raises:
        ValueError: there is none of this name, or it is not one of text files.
    """
    try:
        codec = codecs.lookup(encoding)
        known = codec._is_text_encoding and codec.name.replace("-", "").replace("_", "") not in _NOT_OF_FILES
    except (LookupError, ValueError):  # ValueError: the name holds what no name may hold
        known = False
    if not known:
        raise ValueError(f"unknown encoding {quote(encoding)}; try utf-8, utf-16, latin-1 or cp1252")
    return codec.name
