"""A path names one file or several, compressed or not."""

import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.files import decompress, find_files, format_suffix
from topwork.errors import DataError


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue())
    return {".gz": gzip.compress, ".xz": lzma.compress, "": bytes}[suffix](content)


def decompressed(name: str, content: bytes) -> bytes:
    opened = decompress(Path(name), partial(io.BytesIO, content))
    with opened() as first, opened() as second:
        assert first.read(5) == second.read(5)
        assert first.seek(0) == 0
        return first.read()


@given(content=st.binary(max_size=1000), suffix=st.sampled_from([".gz", ".zst", ".xz", ""]))
def test_what_was_compressed_comes_back(content: bytes, suffix: str) -> None:
    assert decompressed(f"rows.csv{suffix}", compress(content, suffix)) == content


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_files_that_were_joined_are_read_whole(suffix: str) -> None:
    content = compress(b"first\n", suffix) + compress(b"second\n", suffix)
    assert decompressed(f"rows.csv{suffix}", content) == b"first\nsecond\n"


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("content", [b"text,label\n", "cut"], ids=["not compressed", "cut short"])
def test_what_cannot_be_decompressed_is_told(suffix: str, content: bytes | str) -> None:
    broken = compress(b"many words " * 1000, suffix)[:-9] if isinstance(content, str) else content
    with pytest.raises(DataError, match=rf"^rows\.csv\{suffix}: not a readable \{suffix} file: "):
        decompressed(f"rows.csv{suffix}", broken)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.csv", ".csv"), ("a.CSV", ".csv"), ("a.csv.gz", ".csv"), ("a.jsonl.ZST", ".jsonl"), ("a.gz", ""), ("a", "")],
)
def test_the_suffix_before_that_of_the_compression_says_how_a_file_is_read(name: str, suffix: str) -> None:
    assert format_suffix(Path(name)) == suffix


def test_a_pattern_names_files_in_the_order_of_their_names(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("part-2.csv", "part-1.csv", "part-10.csv", "other.csv"):
        write(name, "")
    (tmp_path / "part-3.csv").mkdir()
    assert [file.name for file in find_files(tmp_path / "part-*.csv")] == ["part-1.csv", "part-10.csv", "part-2.csv"]
    assert [file.name for file in find_files(tmp_path / "part-[2-9].csv")] == ["part-2.csv"]


def test_a_pattern_may_name_folders(write: Callable[..., Path], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(f"{folder}/rows.csv", "")
    assert find_files(tmp_path / "*" / "rows.csv") == [tmp_path / "a" / "rows.csv", tmp_path / "b" / "rows.csv"]


def test_a_file_may_have_a_name_like_a_pattern(write: Callable[..., Path]) -> None:
    write("rows1.csv", "")
    assert find_files(write("rows[1].csv", "")) == [write("rows[1].csv", "")]


def test_a_pattern_without_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"part-\*\.csv: no file has such a name$"):
        find_files(tmp_path / "part-*.csv")


def test_a_file_that_is_not_there_is_left_to_the_reader(tmp_path: Path) -> None:
    assert find_files(tmp_path / "rows.csv") == [tmp_path / "rows.csv"]
