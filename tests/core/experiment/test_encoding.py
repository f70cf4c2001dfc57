"""An encoding is one that text files have."""

import encodings.aliases
import warnings

import pytest

from topwork.experiment.encoding import find_codec

#: Every name that Python knows an encoding by.
NAMES = sorted({*encodings.aliases.aliases, *encodings.aliases.aliases.values(), "idna", "punycode", "undefined"})


@pytest.mark.parametrize(("name", "codec"), [("UTF8", "utf-8"), ("latin-1", "iso8859-1"), ("utf-16-le", "utf-16-le")])
def test_an_encoding_has_one_name(name: str, codec: str) -> None:
    assert find_codec(name) == codec


@pytest.mark.parametrize(
    "name", ["utf-9", "", "rot13", "base64", "no such", "undefined", "idna", "unicode_escape", "a\0b", "\ud800", "é"]
)
def test_what_is_no_encoding_of_text_files_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_codec(name)
    assert str(caught.value) == f"unknown encoding {name!r}; try utf-8, utf-16, latin-1 or cp1252"


def test_every_codec_of_python_is_refused_or_reads_what_it_writes() -> None:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            try:
                codec = find_codec(name)
            except ValueError:
                continue
            assert "text, label".encode(codec).decode(codec) == "text, label"
            found.append(codec)
    assert len(set(found)) > 80
