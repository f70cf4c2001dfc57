"""Every value stays the text it is, and every row knows its line."""

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.readers import column_missing, read
from topwork.data.rows import Row, RowError
from topwork.errors import DataError
from topwork.experiment.source import Source

Content = str | bytes

#: Everything that a file in UTF-8 can hold: no lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TABLES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
#: What makes a reader split, strip or convert where it should not.
ODD_TEXTS = ["NA", "null", "None", "nan", "007", "1e5", "true", " padded ", "\x85", "a\u2028b", "a\x0bb\x0cc", "\ufeff"]


def rows(
    name: str,
    content: Content,
    pattern: str | None = None,
    encoding: str = "utf-8",
    wanted: list[str] | None = None,
    columns: tuple[str, ...] | None = None,
) -> list[tuple[int, Row | str]]:
    """What each line gives: a row, or why there is none."""
    raw = content.encode(encoding) if isinstance(content, str) else content
    source = Source(path=Path(name), pattern=pattern, encoding=encoding, columns=columns)
    found = read(Path(name), partial(io.BytesIO, raw), source, wanted=["text"] if wanted is None else wanted)
    return [(line, row.message if isinstance(row, RowError) else row) for line, row in found.rows]


def error(name: str, content: Content, pattern: str | None = None, encoding: str = "utf-8") -> str:
    """Why a whole file is refused."""
    raw = content.encode() if isinstance(content, str) else content
    with pytest.raises(DataError) as caught:
        source = Source(path=Path(name), pattern=pattern, encoding=encoding)
        list(read(Path(name), partial(io.BytesIO, raw), source, wanted=["text"]).rows)
    return str(caught.value)


def as_csv(table: list[tuple[str, str]], line_end: str) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=line_end).writerows([("text", "label"), *table])
    return file.getvalue()


def as_parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def test_csv_rows_keep_their_physical_line() -> None:
    content = 'text,label\nfirst,a\n"second\nover\nthree lines",b\n\nthird,c\n'
    assert rows("a.csv", content) == [
        (2, {"text": "first", "label": "a"}),
        (3, {"text": "second\nover\nthree lines", "label": "b"}),
        (7, {"text": "third", "label": "c"}),
    ]


def test_csv_rows_with_too_few_or_too_many_fields_are_named() -> None:
    content = "text,label\none\ntwo,a\nthree,b,c\n"
    assert rows("a.csv", content) == [
        (2, "the row should have 2 fields as the header has, but has 1"),
        (3, {"text": "two", "label": "a"}),
        (4, "the row should have 2 fields as the header has, but has 3"),
    ]


def test_an_unclosed_quote_is_reported_where_it_opens() -> None:
    *_, last = rows("a.csv", 'text,label\nfirst,a\n"second,b\nthird,c\n')
    assert last == (3, "not valid CSV: unexpected end of data")


def test_text_after_a_closing_quote_is_refused() -> None:
    *_, last = rows("a.csv", 'text,label\n"second"ly,b\n')
    assert last == (2, "not valid CSV: ',' expected after '\"'")


@pytest.mark.parametrize("content", ['"text,label\nfirst,a\n', '"text"s,label\nfirst,a\n'], ids=["open", "text after"])
def test_a_broken_quote_in_the_header_is_a_data_error(content: str) -> None:
    assert error("a.csv", content).startswith("a.csv:1: not valid CSV: ")


def test_a_quote_inside_an_unquoted_csv_field_is_plain() -> None:
    assert rows("a.csv", 'text,label\nhe said "no",a\n') == [(2, {"text": 'he said "no"', "label": "a"})]


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_an_empty_table_has_no_header(suffix: str) -> None:
    assert error(f"a{suffix}", "") == f"a{suffix}:1: the first line must name the columns, but the file is empty"


def test_an_empty_first_line_is_not_called_an_empty_file() -> None:
    message = error("a.csv", "\ntext,label\nfirst,a\n")
    assert message.startswith("a.csv:1: the first line must name the columns")
    assert "the file is empty" not in message


def test_a_text_may_be_longer_than_the_csv_default() -> None:
    long = "x" * 200_000
    assert rows("a.csv", f"text\n{long}\n") == [(2, {"text": long})]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_texts_stay_what_they_are_in_every_format(text: str) -> None:
    wanted = {"text": text, "label": "007"}
    assert rows("a.csv", as_csv([(text, "007")], "\n")) == [(2, wanted)]
    assert rows("a.tsv", f"text\tlabel\n{text}\t007\n") == [(2, wanted)]
    assert rows("a.jsonl", json.dumps(wanted, ensure_ascii=False)) == [(1, wanted)]
    assert rows("a.txt", f"007 {text}", pattern=r"(?P<label>\S+) (?P<text>[^\n]*)") == [(1, wanted)]
    assert rows("a.parquet", as_parquet({"text": [text], "label": ["007"]}), wanted=[]) == [(1, wanted)]


@given(TABLES, st.sampled_from(["\n", "\r\n"]))
def test_csv_gives_back_what_was_written(table: list[tuple[str, str]], line_end: str) -> None:
    found = rows("a.csv", as_csv(table, line_end).encode())
    assert [row for _, row in found] == [{"text": text, "label": label} for text, label in table]


@given(TABLES, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_jsonl_gives_back_what_was_written(table: list[tuple[str, str]], ascii_only: bool, line_end: str) -> None:
    wanted = [{"text": text, "label": label} for text, label in table]
    content = line_end.join(json.dumps(row, ensure_ascii=ascii_only) for row in wanted)
    assert rows("a.jsonl", content.encode()) == list(enumerate(wanted, 1))


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"\n')), min_size=1, max_size=6))
def test_the_line_of_a_csv_row_is_where_it_starts(texts: list[str]) -> None:
    content, starts = "text\n", []
    for text in texts:
        starts.append(content.count("\n") + 1)
        content += f'"{text.replace(chr(13), " ")}\nmore"\n'
    assert [line for line, _ in rows("a.csv", content.encode())] == starts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"', "not valid JSON: Expecting ',' delimiter at character 13"),
        ('{"text": "a", "label": 1, "text": "b"}', "key 'text' occurs twice"),
        ('{"text": "a", "label": NaN}', "NaN is not valid JSON"),
        ('{"text": "a", "label": -Infinity}', "-Infinity is not valid JSON"),
        ('["a", "b"]', 'a row must be a JSON object, got \'["a", "b"]\''),
        ("3", "a row must be a JSON object, got '3'"),
        ("nothing", "not valid JSON: Expecting value at character 1"),
        ('{"text": "a"} {"text": "b"}', "not valid JSON: Extra data at character 15"),
    ],
    ids=["open", "duplicate key", "NaN", "infinity", "list", "number", "no JSON", "two objects"],
)
def test_a_bad_line_of_jsonl_is_named_and_the_others_are_read(line: str, words: str) -> None:
    good = '{"text": "good"}'
    assert rows("a.jsonl", f"{good}\n\n{line}\n{good}\n") == [(1, {"text": "good"}), (3, words), (4, {"text": "good"})]


def test_a_deeply_nested_line_of_jsonl_is_a_bad_line() -> None:
    (line, message), good = rows("a.jsonl", "[" * 200_000 + '\n{"text": "good"}\n')
    assert line == 1
    assert isinstance(message, str)
    assert good == (2, {"text": "good"})


def test_parquet_rows_are_numbered_from_1() -> None:
    content = as_parquet({"text": ["a", None], "label": [1, 2]})
    found = [(1, {"text": "a", "label": 1}), (2, {"text": None, "label": 2})]
    assert rows("a.parquet", content, wanted=[]) == found
    assert rows("a.parquet", content, wanted=["other"]) == found  # so that it can be said what there is
    assert rows("a.parquet", content, wanted=["label"]) == [(1, {"label": 1}), (2, {"label": 2})]


def test_parquet_rows_are_numbered_through_all_that_are_read_at_once() -> None:
    found = rows("a.parquet", as_parquet({"text": [f"{number}" for number in range(10_000)]}))
    assert found == [(number + 1, {"text": f"{number}"}) for number in range(10_000)]


def test_a_column_that_lies_within_another_is_none() -> None:
    content = as_parquet({"text": ["a"], "text.b": ["c"], "d": [{"text": "e"}]})
    assert rows("a.parquet", content) == [(1, {"text": "a"})]


@pytest.mark.parametrize("damage", [lambda c: c[:-20], lambda c: c[:40], lambda c: b"", lambda c: b"text\nhello\n"])
def test_a_damaged_parquet_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    content = as_parquet({"text": ["a", "b"], "label": ["x", "y"]})
    assert error("a.parquet", damage(content)).startswith("a.parquet: not a readable Parquet file: ")


@pytest.mark.parametrize("raised", [pyarrow.ArrowException, pyarrow.ArrowInvalid, OSError])
def test_a_parquet_library_that_fails_without_a_word_is_quoted_by_its_type(
    monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    def fail(source: object) -> None:
        raise raised

    monkeypatch.setattr(pyarrow.parquet, "read_schema", fail)
    assert error("a.parquet", b"") == f"a.parquet: not a readable Parquet file: {raised.__name__}"


PATTERN = r"(?P<label>\S+) (?P<text>.*)"


def test_a_pattern_reads_lines_of_any_file() -> None:
    found = rows("a.csv", "pos it is good, really\n\nneg it is bad\n", pattern=PATTERN)
    assert found == [(1, {"label": "pos", "text": "it is good, really"}), (3, {"label": "neg", "text": "it is bad"})]


def test_a_line_that_does_not_match_is_quoted() -> None:
    found = rows("a.txt", "pos good\nnothing\n" + "x" * 61 + "\n", pattern=PATTERN)
    assert found[1:] == [
        (2, "the line does not match the pattern: 'nothing'"),
        (3, f"the line does not match the pattern: '{'x' * 57}...'"),
    ]


def test_a_pattern_must_match_the_whole_line() -> None:
    ((_, message),) = rows("a.txt", "a1 b", pattern=r"(?P<text>[a-z]\d)")
    assert message == "the line does not match the pattern: 'a1 b'"


@pytest.mark.parametrize("pattern", [".*", r"(\S+) (.*)", r"(?:a)"])
def test_a_pattern_must_name_its_columns(pattern: str) -> None:
    wanted = f"a.txt: pattern {pattern!r} must name its columns, such as (?P<label>\\S+) (?P<text>.*)"
    assert error("a.txt", "x", pattern=pattern) == wanted


@pytest.mark.parametrize("pattern", ["(?P<text>.*", "*", "(?P<text>a)(?P<text>b)"])
def test_a_pattern_that_is_no_regular_expression_is_quoted(pattern: str) -> None:
    message = error("a.txt", "x", pattern=pattern)
    assert message.startswith(f"a.txt: pattern {pattern!r} is not a regular expression: ")


@pytest.mark.parametrize(("name", "suffix"), [("a.txt", ".txt"), ("a.xlsx", ".xlsx"), ("a", "suffixless")])
def test_a_file_of_unknown_kind_says_what_is_read(name: str, suffix: str) -> None:
    assert error(name, "x") == (
        f"{name}: files ending in .csv, .tsv, .jsonl, .parquet, .conllu, .conll are read as they are; "
        f"set `pattern` to read the lines of a {suffix} file"
    )


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("last", ["", "end"], ids=["no last line end", "last line end"])
def test_line_ends_are_not_part_of_the_text(line_end: str, last: str) -> None:
    end = line_end if last else ""
    assert rows("a.txt", f"a b{line_end}c d{end}", pattern=PATTERN) == [
        (1, {"label": "a", "text": "b"}),
        (2, {"label": "c", "text": "d"}),
    ]
    assert rows("a.csv", f"text{line_end}b{line_end}d{end}") == [(2, {"text": "b"}), (3, {"text": "d"})]
    assert rows("a.jsonl", f'{{"a": 1}}{line_end}{{"a": 2}}{end}') == [(1, {"a": 1}), (2, {"a": 2})]


def test_byte_0x85_does_not_split_a_line_of_latin_1() -> None:
    raw = b"pos to be \x85 or not\nneg no\n"
    found = rows("a.txt", raw, pattern=PATTERN, encoding="latin-1")
    assert found == [(1, {"label": "pos", "text": "to be \x85 or not"}), (2, {"label": "neg", "text": "no"})]
    table = b"label,text\n" + raw.replace(b" ", b",", 1).replace(b"neg ", b"neg,")
    assert rows("a.csv", table, encoding="latin-1") == [(line + 1, row) for line, row in found]


def test_latin_1_read_as_utf8_gives_line_and_byte_and_the_option() -> None:
    assert error("a.csv", "text\nplain\ncafé\n".encode("latin-1")) == (
        "a.csv:3: byte 14 (0xe9) is not utf-8; set `encoding` of the source, for example `encoding: latin-1`"
    )


def test_the_byte_is_counted_from_the_start_of_the_file_with_a_mark_too() -> None:
    raw = b"\xef\xbb\xbf" + "text\nplain\ncafé\n".encode("latin-1")
    assert error("a.csv", raw).startswith("a.csv:3: byte 17 (0xe9) is not utf-8; ")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(encoding: str) -> None:
    assert rows("a.csv", b"\xef\xbb\xbftext\na\n", encoding=encoding) == [(2, {"text": "a"})]


def test_utf16_is_read_where_it_is_named() -> None:
    assert rows("a.csv", "text\ncafé\n", encoding="utf-16") == [(2, {"text": "café"})]


def test_a_missing_column_is_compared_with_those_there_are() -> None:
    message = column_missing("sentment", {"text": "a", "sentiment": "b"})
    assert message == "there is no such column, only text, sentiment; did you mean sentiment?"


def test_columns_may_be_named_where_the_file_does_not() -> None:
    assert rows("a.csv", 'good film,pos\n"so, so",neg\n', columns=("text", "label")) == [
        (1, {"text": "good film", "label": "pos"}),
        (2, {"text": "so, so", "label": "neg"}),
    ]


def test_quotes_are_part_of_the_text_in_a_file_of_tabs_without_header() -> None:
    assert rows("a.tsv", '"quoted" text\tpos\n"\tneg\n', columns=("text", "label")) == [
        (1, {"text": '"quoted" text', "label": "pos"}),
        (2, {"text": '"', "label": "neg"}),
    ]


def test_rows_have_as_many_fields_as_there_are_names() -> None:
    assert rows("a.tsv", "a\tpos\nb\nc\tneg\tmore\n", columns=("text", "label")) == [
        (1, {"text": "a", "label": "pos"}),
        (2, "the row should have 2 fields as `columns` has, but has 1"),
        (3, "the row should have 2 fields as `columns` has, but has 3"),
    ]


def test_further_fields_are_passed_over_where_that_is_asked_for() -> None:
    assert rows("a.tsv", "a\tpos\nb\nc\tneg\tmore\tmore\n", columns=("text", "label", "...")) == [
        (1, {"text": "a", "label": "pos"}),
        (2, "the row should have 2 fields as `columns` has, but has 1"),
        (3, {"text": "c", "label": "neg"}),
    ]


def test_a_column_that_is_not_among_the_names_is_told() -> None:
    source = Source(path=Path("a.csv"), columns=("first", "label"))
    with pytest.raises(DataError, match=r"^a\.csv: columns of the source names first, label, but not text$"):
        read(Path("a.csv"), partial(io.BytesIO, b"a,b\n"), source, wanted=["text", "label"])


def test_names_are_for_files_whose_rows_have_none() -> None:
    source = Source(path=Path("a.jsonl"), columns=("text", "label"))
    with pytest.raises(
        DataError, match=r"^a\.jsonl: only \.csv, \.tsv and \.conll files have rows without names; leave"
    ):
        read(Path("a.jsonl"), partial(io.BytesIO, b"{}"), source, wanted=["text"])


def test_a_compressed_file_is_read_as_the_suffix_before_says() -> None:
    assert rows("a.jsonl.gz", '{"text": "a"}\n') == [(1, {"text": "a"})]


def test_an_encoding_is_refused_where_there_are_no_bytes() -> None:
    source = Source(path=Path("a.parquet"), encoding="latin-1")
    with pytest.raises(DataError, match=r"^a\.parquet: a Parquet file has texts, not bytes; leave out `encoding`"):
        read(Path("a.parquet"), partial(io.BytesIO, b""), source, wanted=["text"])
