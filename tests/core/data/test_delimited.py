"""CSV and TSV are read as their writers write them, and where a file could be read in two ways, it is said how."""

import csv
import io
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.delimited import _are_equal, read_delimited
from topwork.data.rows import RowError
from topwork.errors import DataError

COLUMNS = ["text", "label"]


def read(text: str, delimiter: str = ",", wanted: list[str] = COLUMNS) -> tuple[list[tuple[int, object]], list[str]]:
    """The rows, each with its line, and the notes without the file's name."""
    found = read_delimited(partial(io.StringIO, text), Path("a.csv"), delimiter=delimiter, wanted=wanted)
    rows = [(line, row.message if isinstance(row, RowError) else row) for line, row in found.rows]
    return rows, [note.removeprefix("a.csv: ") for note in found.notes]


def error(text: str, delimiter: str = ",") -> str:
    with pytest.raises(DataError) as caught:
        read(text, delimiter)
    return str(caught.value)


def row(text: str, label: str) -> dict[str, str]:
    return {"text": text, "label": label}


GOOD = [(2, row("good film", "pos")), (3, row("bad film", "neg"))]


def test_columns_of_one_name_that_nobody_asked_for_are_left_out() -> None:
    assert read("text,note,label,note\na,1,x,2\n") == ([(2, row("a", "x"))], [])


def test_columns_of_one_name_that_are_asked_for_are_refused() -> None:
    assert error("text,label,text\na,x,b\n") == (
        "a.csv:1: 2 columns are named 'text'; rename all but the one that is meant"
    )


def test_unnamed_columns_of_a_spreadsheet_are_left_out() -> None:
    assert read("text,label,,\ngood film,pos,,\nbad film,neg, ,\n") == (GOOD, [])


def test_a_spreadsheet_may_leave_out_the_last_empty_fields() -> None:
    assert read("text,label,,\ngood film,pos\nbad film,neg,\n") == (GOOD, [])


def test_a_value_in_an_unnamed_column_at_the_end_is_an_error_since_a_comma_may_have_shifted_it() -> None:
    ((line, message),) = read("text,label,,\ngood, but long,pos,\n")[0]
    assert (line, message) == (
        2,
        "the row has 'pos' in column 3, which has no name; put a text with commas in quotes, or name the column",
    )


def test_an_unnamed_index_before_the_named_columns_is_left_out() -> None:
    assert read(",text,label\n0,good film,pos\n1,bad film,neg\n") == (GOOD, [])
    assert read(",,text,label\n0,a,good film,pos\n1,b,bad film,neg\n") == (GOOD, [])


@pytest.mark.parametrize("fields", ["one", "one,two,three"])
def test_a_row_must_have_a_field_for_each_column(fields: str) -> None:
    count = fields.count(",") + 1
    message = f"the row should have 2 fields as the header has, but has {count}"
    assert read(f"text,label\n{fields}\n")[0] == [(2, message)]


def test_a_blank_after_each_comma_is_left_out() -> None:
    assert read('text, label\ngood film, pos\n"bad film", "neg"\n') == (GOOD, ["blanks after commas are left out"])


def test_blanks_around_the_names_of_columns_are_left_out_and_values_stay() -> None:
    rows, notes = read("label ,text\npos, good\n")
    assert (rows, notes) == ([(2, row(" good", "pos"))], ["blanks around the names of columns are left out"])


def test_one_column_has_no_blanks_after_commas() -> None:
    rows, notes = read(" text\n good\n", wanted=["text"])
    assert (rows, notes) == ([(2, {"text": " good"})], ["blanks around the names of columns are left out"])


def test_a_column_whose_name_has_blanks_can_be_asked_for() -> None:
    assert read("text, label\na, x\n", wanted=["text", " label"]) == ([(2, {"text": "a", " label": " x"})], [])


@pytest.mark.parametrize("suffix", [",", "\t"])
@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
)
def test_the_header_shows_what_separates_columns(suffix: str, delimiter: str, name: str) -> None:
    text = f'text{delimiter}label\n"good film"{delimiter}pos\nbad film{delimiter}neg\n'
    if delimiter == suffix:
        text = text.replace('"', "")
    rows, notes = read(text, suffix)
    assert rows == GOOD
    assert notes == ([f"columns are separated by {name}, as the first line shows"] if delimiter != suffix else [])


def test_semicolons_and_blanks_are_both_told() -> None:
    assert read("text; label\ngood film; pos\nbad film; neg\n") == (
        GOOD,
        ["columns are separated by semicolons, as the first line shows", "blanks after semicolons are left out"],
    )


def test_a_missing_column_is_missing_whatever_separates_columns() -> None:
    assert read("text;mood\na;x\n")[0] == [(2, {"text;mood": "a;x"})]


@pytest.mark.parametrize("text", ['"text,label\nfirst,a\n', '"text"s,label\nfirst,a\n'])
def test_a_broken_quote_in_the_header_is_refused(text: str) -> None:
    assert error(text).startswith("a.csv:1: not valid CSV: ")


ENCLOSE = (
    "quotes are read as enclosing fields, first in line {}; if they are part of the text, read the lines with `pattern`"
)
PLAIN = (
    "quotes are read as part of the text, first in line {}; if they enclose fields, name the file .csv, which may have "
    "tabs too"
)


def test_tsv_of_a_writer_that_quotes_is_read_as_it_writes() -> None:
    text = 'text\tlabel\nplain\tn\n"he said ""go"""\tp\n"two\nlines"\tp\n"a\ttab"\tn\n'
    rows, notes = read(text, "\t")
    assert rows == [
        (2, row("plain", "n")),
        (3, row('he said "go"', "p")),
        (4, row("two\nlines", "p")),
        (6, row("a\ttab", "n")),
    ]
    assert notes == [ENCLOSE.format(3)]


@pytest.mark.parametrize(
    "text",
    [
        '"text"\t"label"\n"good film"\t"pos"\n"bad film"\t"neg"\n',  # a writer that quotes everything
        '"text"\t"label"\n"good film"\tpos\nbad film\t"neg"\n',  # else the header lacks the columns
        'text\tlabel\n"good film"\tpos\nbad film\tneg\n"a\tb"\tpos\n',  # else a row has too many fields
    ],
    ids=["all quoted", "header", "counts"],
)
def test_tsv_that_can_only_be_read_as_quoted_is_read_so(text: str) -> None:
    rows, notes = read(text, "\t")
    assert rows[:2] == GOOD
    assert len(notes) == 1
    assert notes[0].startswith("quotes are read as enclosing fields, first in line ")


@pytest.mark.parametrize(
    "content",
    [
        '"quoted"\ta\n"open\tb\n',  # an open quote
        'he said "no"\ta\n"no" was all\tb\n',  # text after a closing quote
        'he said "no"\ta\n6" tall\tb\n',  # quotes inside alone
    ],
)
def test_quotes_in_tsv_that_cannot_enclose_fields_are_part_of_the_text(content: str) -> None:
    rows, notes = read(f"text\tlabel\n{content}", "\t")
    assert [found for _, found in rows] == [row(*line.split("\t")) for line in content.splitlines()]
    assert notes == []


@pytest.mark.parametrize("content", ['plain\ta\n"quoted"\tb\n', '"quoted"\ta\nhe said "no"\tb\n'])
def test_quotes_in_tsv_that_may_be_either_are_part_of_the_text_and_that_is_said(content: str) -> None:
    rows, notes = read(f"text\tlabel\n{content}", "\t")
    assert [found for _, found in rows] == [row(*line.split("\t")) for line in content.splitlines()]
    assert notes == [PLAIN.format(2 + content.splitlines().index(next(c for c in content.splitlines() if c[0] == '"')))]


def test_a_faulty_row_of_quoted_tsv_is_placed() -> None:
    rows, _ = read('text\tlabel\n"two\nlines"\tp\nalone\n"a ""b"""\tn\n', "\t")
    assert rows == [
        (2, row("two\nlines", "p")),
        (4, "the row should have 2 fields as the header has, but has 1"),
        (5, row('a "b"', "n")),
    ]


TEXTS = st.text(st.sampled_from('ab "\t\n;,|'), min_size=1, max_size=6)
TABLES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


def write(table: list[tuple[str, ...]], delimiter: str, quoting: int) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows([COLUMNS, *table])  # type: ignore[arg-type]
    return file.getvalue()


@given(TABLES, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from("\t,;|"), st.sampled_from("\t,"))
def test_what_a_writer_wrote_is_read_whatever_the_suffix(
    table: list[tuple[str, str]], quoting: int, delimiter: str, suffix: str
) -> None:
    rows, _ = read(write(table, delimiter, quoting), suffix)
    assert [found for _, found in rows] == [row(*fields) for fields in table]


@given(st.lists(st.tuples(*[st.text(st.sampled_from('ab "'), min_size=1, max_size=6)] * 2), min_size=1, max_size=5))
def test_quotes_of_tsv_are_never_lost_without_a_word(table: list[tuple[str, str]]) -> None:
    rows, notes = read("\n".join("\t".join(fields) for fields in [COLUMNS, *table]), "\t")
    assert notes or [found for _, found in rows] == [row(*fields) for fields in table]


PARTS = st.lists(st.text(st.sampled_from("a\n"), min_size=1, max_size=4).map(lambda part: part.replace("\n", "\r\n")))


@given(PARTS, PARTS)
def test_parts_are_equal_that_make_equal_texts(first: list[str], second: list[str]) -> None:
    def joined(parts: list[str]) -> str:
        return "".join(parts).replace("\r\n", "\n").rstrip("\n")

    assert _are_equal(first, second) == (joined(first) == joined(second))
    text = "".join(first)
    assert _are_equal([text] if text else [], first)


def real(reviews: Path, name: str) -> str:
    """The text of a file of real rows."""
    path = reviews.with_name(name)
    if not path.exists():
        pytest.skip(f"the real rows are not at {path}")
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_real_rows_that_a_writer_quoted_are_read_as_it_wrote_them(reviews: Path) -> None:
    rows, (note,) = read("text\tlabel\tid\n" + real(reviews, "goemotions.train.tsv"), "\t")
    assert len(rows) == 12_000
    assert note == ENCLOSE.format(125)
    line, found = rows[123]
    assert isinstance(found, dict)
    assert (line, found["text"]) == (125, 'Three words, no subtlety. "Dude. Stop. Seriously." ')


def test_real_rows_whose_quotes_are_plain_keep_them(reviews: Path) -> None:
    content = real(reviews, "sts.train.tsv")
    rows, notes = read("a\tb\tc\td\tlabel\ttext\tother\n" + content, "\t")
    assert (len(rows), notes) == (5_749, [])
    texts = [found["text"] for _, found in rows if isinstance(found, dict)]
    assert sum('"' in text for text in texts) > 100
