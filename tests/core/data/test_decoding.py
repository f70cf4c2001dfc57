"""Bytes become text, or it is said which setting reads them."""

import codecs
import io
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.decoding import decode
from topwork.errors import DataError

PATH = Path("a.csv")
TEXT = "text,label\ncafé,good\n"


def decoded(content: bytes, encoding: str) -> tuple[str, tuple[str, ...]]:
    """The text, without changing its line ends, and what is said of it."""
    text, notes = decode(PATH, partial(io.BytesIO, content), encoding)
    with text("") as stream:
        return stream.read(), notes


def error(content: bytes, encoding: str = "utf-8") -> str:
    with pytest.raises(DataError) as caught:
        decode(PATH, partial(io.BytesIO, content), encoding)
    return str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32-be", "utf-7", "cp500"]
)
def test_a_text_is_read_in_its_encoding(encoding: str) -> None:
    assert decoded(TEXT.encode(encoding), encoding) == (TEXT, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_is_no_part_of_the_text(encoding: str) -> None:
    assert decoded(f"\ufeff{TEXT}".encode(encoding.removesuffix("-sig")), encoding) == (TEXT, ())


@pytest.mark.parametrize(
    ("mark", "encoding", "name"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
    ],
)
def test_a_mark_that_no_utf8_begins_with_decides_and_that_is_said(mark: bytes, encoding: str, name: str) -> None:
    text, notes = decoded(mark + TEXT.encode(encoding), "utf-8")
    assert text == TEXT
    assert notes == (f"a.csv is read in {name}, as its byte-order mark says; set `encoding: {name}` of the source",)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [TEXT, "文,标签\n好,好\n", "a" * 3000 + "\n"], ids=["Latin", "Chinese", "long"])
def test_utf16_without_a_mark_is_refused_with_the_setting_that_reads_it(encoding: str, codec: str, text: str) -> None:
    if text.startswith("a"):
        text = f"{text[:5]},{text}"
    assert error(text.encode(codec), encoding) == (
        f"a.csv: this looks like {codec} without a byte-order mark; set `encoding: {codec}`"
    )
    assert decoded(text.encode(codec), codec) == (text, ())


@given(st.text(st.characters(exclude_characters="\0")))
def test_what_holds_no_nul_is_never_taken_for_utf16(text: str) -> None:
    content = text.encode("utf-8", "ignore")
    assert decoded(content, "utf-8")[0] == content.decode().removeprefix("\ufeff")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_without_a_mark_bytes_are_in_the_order_of_the_machine(encoding: str) -> None:
    native = f"{encoding}-{'le' if sys.byteorder == 'little' else 'be'}"
    assert decoded(TEXT.encode(native), encoding) == (TEXT, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "shift_jis", "gb18030"])
def test_characters_at_the_borders_of_what_is_read_at_once_are_whole(encoding: str) -> None:
    text = "a" + "好\r\n" * 400_000
    assert decoded(text.encode(encoding), encoding) == (text, ())
    opened, _ = decode(PATH, partial(io.BytesIO, text.encode(encoding)), encoding)
    with opened("") as first, opened("\n") as second:
        assert [*first] == [*second] == text.splitlines(keepends=True)


def test_a_wrong_byte_far_behind_is_placed() -> None:
    content = ("é\n" * 1_000_000).encode() + b"caf\xe9\n"
    assert error(content).startswith("a.csv:1000001: byte 3000003 (0xe9) is not utf-8; ")
    assert error(content[:-2] + b"\xc3").startswith("a.csv:1000001: byte 3000003 (0xc3) is not utf-8; ")


def test_a_nul_in_a_text_is_not_taken_for_utf16() -> None:
    assert decoded(b"text\na\0b\n", "utf-8") == ("text\na\0b\n", ())


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"text\ncaf\xe9\n", "utf-8", "a.csv:2: byte 8 (0xe9) is not utf-8; set `encoding` of the source, for example"),
        (TEXT.encode("utf-16")[:-1], "utf-16", "a.csv:2: byte 42 (0x0a) is not utf-16; "),
        (b"\x80\x00\x00", "utf-32", "a.csv:1: byte 0 (0x80) is not utf-32; "),
        (b"text", "undefined", "a.csv: unknown encoding 'undefined'; try utf-8, utf-16, latin-1 or cp1252"),
    ],
)
def test_what_is_not_in_its_encoding_is_placed(content: bytes, encoding: str, message: str) -> None:
    assert error(content, encoding).startswith(message)
