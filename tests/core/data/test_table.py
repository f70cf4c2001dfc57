"""Rows are checked one by one, and errors are told together."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from topwork.data.files import OpenBytes, digest_of
from topwork.data.table import Table, read_table
from topwork.errors import MAX_CHARACTERS, DataError
from topwork.experiment.label_format import LabelColumns, LabelFormat, OnMissing
from topwork.experiment.source import Source
from topwork.interfaces.labels import Classes, Distribution

Write = Callable[..., Path]


HINT = "to leave out faulty rows, set `on_faulty_rows: skip` of the source"
MAY_LACK = "where rows may lack a label, set tasks.mood.missing: skip"


def rows(
    path: Path,
    *columns: str,
    labels: dict[str, Any] | None = None,
    missing: OnMissing = "error",
    by: str | None = None,
    **options: Any,
) -> Table:
    """Read a file with a task for each label column, which has the column's name."""
    format = LabelFormat(**labels or {})
    tasks = {name: LabelColumns((name,), format, missing, head="binary") for name in columns}
    return read_table(path, Source(path=path, **options), tasks, by=by)


def errors(path: Path, *columns: str, **options: Any) -> list[str]:
    """The lines of the error that reading ends with, without the folder and the hints at their end."""
    with pytest.raises(DataError) as caught:
        rows(path, *columns, **options)
    return [
        line.removeprefix(f"{path.parent}/") for line in str(caught.value).splitlines() if line not in (HINT, MAY_LACK)
    ]


def lines_of_json(*objects: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(found)}\n" for found in objects)


def test_rows_are_read_column_by_column_with_their_places(write: Write) -> None:
    content = 'text,mood,topic\nfine,good,a\n"two\nlines",bad,b\n'
    path = write("a.csv", content)
    found = rows(path, "mood")
    assert found.texts == ["fine", "two\nlines"]
    assert found.labels == {"mood": ["good", "bad"]}
    assert found.spaces == {"mood": Classes}
    assert found.locations == [f"{path}:2", f"{path}:3"]
    assert (found.digest, found.warnings) == (hashlib.sha256(content.encode()).hexdigest(), [])


def test_the_text_column_may_have_another_name(write: Write) -> None:
    path = write("a.csv", "review,text\nfine,good\n")
    found = rows(path, "text", text="review")
    assert (found.texts, found.labels) == (["fine"], {"text": ["good"]})


@pytest.mark.parametrize("value", ["NA", "null", "None", "nan", "007", "1e5", "True", "\u200b"])
def test_texts_and_labels_that_look_like_something_else_stay_text(write: Write, value: str) -> None:
    found = rows(write("a.csv", f"text,mood\n{value},{value}\n"), "mood")
    assert (found.texts, found.labels["mood"]) == ([value], [value])


@pytest.mark.parametrize(
    ("label", "wanted"),
    [("3", "3"), (3, "3"), (-1, "-1"), (1.0, "1"), (-0.0, "0"), (True, "true"), (False, "false"), ("é", "é")],
    ids=repr,
)
def test_labels_become_text(write: Write, label: object, wanted: str) -> None:
    assert rows(write("a.jsonl", lines_of_json({"text": "a", "mood": label})), "mood").labels["mood"] == [wanted]


def test_the_name_of_a_class_is_a_text_or_a_number(write: Write) -> None:
    path = write("a.jsonl", lines_of_json({"text": "a", "mood": ["a"]}))
    assert errors(path, "mood") == [
        "a.jsonl:1: mood: head binary takes one of several classes, got ['a']; for lists use head multilabel, tagging"
    ]
    path = write("a.jsonl", lines_of_json({"text": "a", "mood": {"a": 1}}))
    assert errors(path, "mood") == ["a.jsonl:1: mood: head binary takes one of several classes, got {'a': 1}"]


def test_an_empty_label_is_an_error(write: Write) -> None:
    assert errors(write("a.csv", "text,mood\na,x\nb,\n"), "mood") == ["a.csv:3: mood: the label is empty"]


def test_an_empty_label_is_told_with_the_setting_that_allows_it(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        rows(write("a.csv", "text,mood,topic\na,x,z\nb,,z\nc,y,z\n"), "mood", "topic")
    assert str(caught.value).splitlines()[1:] == [HINT, MAY_LACK]


TABLES_WITH_GAPS: dict[str, str | bytes | dict[str, list[str | None]]] = {
    "a.csv": "text,mood,topic\na,x,1\nb,,2\nc, ,\nd,y,\n",
    "a.jsonl": lines_of_json(
        {"text": "a", "mood": "x", "topic": "1"},
        {"text": "b", "mood": None, "topic": "2"},
        {"text": "c", "mood": "", "topic": None},
        {"text": "d", "mood": "y", "topic": None},
    ),
    "a.parquet": {"text": ["a", "b", "c", "d"], "mood": ["x", None, "", "y"], "topic": ["1", "2", None, None]},
}


@pytest.mark.parametrize("name", TABLES_WITH_GAPS)
def test_rows_may_lack_labels_where_the_task_says_so(write: Write, name: str, tmp_path: Path) -> None:
    content, path = TABLES_WITH_GAPS[name], tmp_path / name
    if isinstance(content, dict):
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    else:
        write(name, content)
    found = rows(path, "mood", "topic", missing="skip")
    assert found.texts == ["a", "b", "d"]
    assert found.labels == {"mood": ["x", None, "y"], "topic": ["1", "2", None]}
    third = {"a.csv": 4, "a.jsonl": 3, "a.parquet": 3}[name]
    assert found.warnings == [
        f"{path}: 1 of 4 rows have no label of any task and were left out; the first is {path}:{third}"
    ]


def test_one_task_may_lack_a_label_of_a_column_and_another_not(write: Write) -> None:
    path = write("a.csv", "text,mood\na,x\nb,\n")
    tasks = {name: LabelColumns(("mood",), LabelFormat(), missing) for name, missing in MAY_AND_MUST.items()}
    with pytest.raises(DataError, match=r"a.csv:3: mood: the label is empty") as caught:
        read_table(path, Source(path=path), tasks)
    assert str(caught.value).splitlines()[-1] == "where rows may lack a label, set tasks.must.missing: skip"


MAY_AND_MUST: dict[str, OnMissing] = {"may": "skip", "must": "error"}


def test_a_file_without_any_label_is_an_error(write: Write) -> None:
    path = write("a.csv", "text,mood\na,\nb,\n")
    assert errors(path, "mood", missing="skip") == ["a.csv: none of its rows has a label"]


def test_a_stratum_may_not_be_missing(write: Write) -> None:
    path = write("a.csv", "text,mood,kind\na,x,u\nb,y,\n")
    assert errors(path, "mood", missing="skip", by="kind") == ["a.csv:3: kind: the label is empty"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("1", 1, "labels above are of type str, but 1 is of type int"),
        (1, "1", "labels above are of type int, but '1' is of type str"),
        (1, True, "labels above are of type int, but True is of type bool"),
    ],
)
def test_labels_do_not_change_their_type(write: Write, first: object, second: object, words: str) -> None:
    path = write("a.jsonl", lines_of_json({"text": "a", "mood": first}, {"text": "b", "mood": second}))
    assert errors(path, "mood") == [f"a.jsonl:2: mood: {words}"]


@pytest.mark.parametrize("text", ["", " ", "\t\u00a0"], ids=repr)
def test_an_empty_text_is_an_error(write: Write, text: str) -> None:
    path = write("a.csv", f"text,mood\na,x\n{text},y\n")
    assert errors(path, "mood") == ["a.csv:3: text: the text is empty"]


@pytest.mark.parametrize("text", [3, ["a"]], ids=repr)
def test_a_text_is_a_string(write: Write, text: object) -> None:
    path = write("a.jsonl", lines_of_json({"text": text}))
    assert errors(path) == [f"a.jsonl:1: text: a text must be a string, got {text!r}"]


def test_half_a_character_is_no_text(write: Write) -> None:
    (error,) = errors(write("a.jsonl", '{"text": "half \\ud800"}\n'))
    assert error.startswith("a.jsonl:1: text: ")


def test_a_null_text_of_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "c"], "mood": ["x", "y", None]}), path)
    assert errors(path, "mood") == [
        "a.parquet:2: text: the text is missing",
        "a.parquet:3: mood: the label is missing",
    ]


def test_all_errors_of_a_row_are_named(write: Write) -> None:
    assert errors(write("a.csv", "text,mood,topic\n,,x\n"), "mood", "topic") == [
        "a.csv:2: text: the text is empty",
        "a.csv:2: mood: the label is empty",
    ]


def test_a_missing_column_is_told_once_with_the_nearest(write: Write) -> None:
    path = write("a.csv", "text,sentiment\na,x\nb,y\n")
    assert errors(path, "sentment") == [
        "a.csv:2: sentment: there is no such column, only text, sentiment; did you mean sentiment?"
    ]


def test_a_missing_text_column_is_named(write: Write) -> None:
    path = write("a.csv", "review,mood\na,x\n")
    assert errors(path, "mood") == ["a.csv:2: text: there is no such column, only review, mood"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL"])
def test_every_line_of_jsonl_that_lacks_a_column_is_named(write: Write, name: str) -> None:
    path = write(name, lines_of_json({"text": "a"}, {"text": "b", "mood": "x"}, {"text": "c"}))
    words = "mood: there is no such column, only text"
    assert errors(path, "mood") == [f"{name}:1: {words}", f"{name}:3: {words}"]


def test_errors_of_every_kind_are_told_together(write: Write) -> None:
    path = write("a.csv", 'text,mood\n,x\ntoo,many,fields\nfine,x\n"open,x\n')
    assert errors(path, "mood") == [
        "a.csv:2: text: the text is empty",
        "a.csv:3: the row should have 2 fields as the header has, but has 3",
        "a.csv:5: not valid CSV: unexpected end of data",
    ]


@pytest.mark.parametrize("count", [1, 20])
def test_up_to_20_errors_are_all_told(write: Write, count: int) -> None:
    found = errors(write("a.csv", "text,mood\n" + ",x\n" * count), "mood")
    assert found == [f"a.csv:{line}: text: the text is empty" for line in range(2, 2 + count)]


def test_of_more_errors_the_first_20_and_the_total_are_told(write: Write) -> None:
    found = errors(write("a.csv", "text,mood\n" + ",x\n" * 57), "mood")
    assert found[:20] == [f"a.csv:{line}: text: the text is empty" for line in range(2, 22)]
    assert found[20:] == ["... and 37 more; 57 problems in all"]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (5, 5), (6, 5)])
def test_the_limit_is_the_most_rows_that_are_read(write: Write, limit: int, count: int) -> None:
    path = write("a.csv", "text\n" + "".join(f"t{i}\n" for i in range(5)))
    assert rows(path, limit=limit).texts == [f"t{i}" for i in range(count)]


def test_rows_behind_the_limit_are_not_looked_at(write: Write) -> None:
    path = write("a.csv", 'text\nfine\n""\n"open\n')
    assert rows(path, limit=1).texts == ["fine"]


def test_a_faulty_row_counts_towards_the_limit(write: Write) -> None:
    assert errors(write("a.csv", 'text\n""\nfine\n""\n'), limit=2) == ["a.csv:2: text: the text is empty"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text\n"), ("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.tsv", "text\n\n")]
)
def test_a_file_without_rows_is_refused(write: Write, name: str, content: str) -> None:
    assert errors(write(name, content)) == [f"{name}: the file holds no rows"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert errors(tmp_path / "nowhere.csv") == ["nowhere.csv: cannot be read: No such file or directory"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    assert errors(tmp_path / "a.csv") == ["a.csv: cannot be read: Is a directory"]


def test_a_file_that_changes_while_it_is_read_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.csv", "text\nfine\n")

    def digest_of_what_changes(content: OpenBytes) -> str:
        found = digest_of(content)
        path.write_text("text\nother rows\n", encoding="utf-8")
        return found

    monkeypatch.setattr("topwork.data.table.digest_of", digest_of_what_changes)
    assert errors(path) == ["a.csv: the file changed while it was read; start again when nothing writes to it"]


def test_a_pattern_and_an_encoding_are_taken_from_the_source(write: Write) -> None:
    path = write("a.txt", "x café \x85 au lait\n".encode("latin-1"))
    found = rows(path, "mood", pattern=r"(?P<mood>\S+) (?P<text>.*)", encoding="latin-1")
    assert (found.texts, found.labels["mood"]) == (["café \x85 au lait"], ["x"])


def test_a_group_that_took_no_part_is_no_text(write: Write) -> None:
    path = write("a.txt", "x\n")
    assert errors(path, pattern="x(?P<text>y)?") == ["a.txt:1: text: the text is missing"]


def test_whole_numbers_that_are_stored_as_floats_are_whole_numbers(write: Write, tmp_path: Path) -> None:
    numbers = [1.0, 0.0, 1]
    path = write("a.jsonl", lines_of_json(*({"text": "a", "mood": number} for number in numbers)))
    assert rows(path, "mood").labels["mood"] == ["1", "0", "1"]
    table = pyarrow.table({"text": ["a", "b", "c"], "mood": [1.0, None, float("nan")]})  # what pandas makes of gaps
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    missing = [f"a.parquet:{row}: mood: the label is missing" for row in (2, 3)]
    assert errors(tmp_path / "a.parquet", "mood") == missing


@pytest.mark.parametrize("column", ["text", "mood"])
def test_null_is_a_missing_value(write: Write, column: str) -> None:
    path = write("a.jsonl", lines_of_json({"text": "a", "mood": "x"}, {"text": "b", "mood": "y", column: None}))
    what = "text" if column == "text" else "label"
    assert errors(path, "mood") == [f"a.jsonl:2: {column}: the {what} is missing"]


def test_faulty_rows_are_errors_unless_they_are_to_be_skipped(write: Write) -> None:
    path = write("a.csv", "text,mood\nfine,x\n,y\n")
    with pytest.raises(DataError) as caught:
        rows(path, "mood")
    assert str(caught.value).splitlines() == [f"{path}:3: text: the text is empty", HINT]


def test_faulty_rows_that_are_skipped_are_counted_and_listed(write: Write) -> None:
    path = write("a.csv", "text,mood\nfine,x\n,y\n  ,\ntoo,many,fields\ngood,y\n")
    found = rows(path, "mood", on_faulty_rows="skip")
    assert (found.texts, found.labels["mood"], found.locations) == (
        ["fine", "good"],
        ["x", "y"],
        [f"{path}:2", f"{path}:6"],
    )
    assert found.warnings == [
        f"{path}: 3 of 5 rows are faulty and were skipped:\n"
        f"  {path}:3: text: the text is empty\n"
        f"  {path}:4: text: the text is empty\n"
        f"  {path}:4: mood: the label is empty\n"
        f"  {path}:5: the row should have 2 fields as the header has, but has 3"
    ]


def test_of_many_skipped_rows_the_first_20_and_the_total_are_told(write: Write) -> None:
    (warning,) = rows(write("a.csv", "text\n" + '""\n' * 30 + "fine\n"), on_faulty_rows="skip").warnings
    first, *_, last = warning.splitlines()
    assert first.endswith("a.csv: 30 of 31 rows are faulty and were skipped:")
    assert last == "  ... and 10 more; 30 problems in all"


def test_a_list_of_skipped_rows_is_not_longer_than_a_screen(write: Write) -> None:
    wide = {f"column_of_a_wide_table_{number}": 1 for number in range(500)}
    path = write("a.jsonl", lines_of_json({"text": "a", "mood": "x"}, *({"text": "b", **wide} for _ in range(30))))
    (warning,) = rows(path, "mood", on_faulty_rows="skip").warnings
    assert len(warning) <= MAX_CHARACTERS
    assert warning.splitlines()[-1] == "  ... and 10 more; 30 problems in all"


def test_skipped_rows_count_towards_the_limit(write: Write) -> None:
    found = rows(write("a.csv", 'text\n""\nfine\ngood\n'), limit=2, on_faulty_rows="skip")
    assert found.texts == ["fine"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('text,mood\nfine,x\n"open,x\n', "a.csv:3: not valid CSV: unexpected end of data"),
        ("text,moood\nfine,x\n", "a.csv:2: mood: there is no such column, only text, moood; did you mean moood?"),
        ("text,mood\n,x\n,y\n", "a.csv:2: text: the text is empty"),
    ],
    ids=["the rest is unreadable", "a missing column", "no row is left"],
)
def test_what_is_wrong_with_a_whole_file_is_never_skipped(write: Write, content: str, error: str) -> None:
    path = write("a.csv", content)
    with pytest.raises(DataError) as caught:
        rows(path, "mood", on_faulty_rows="skip")
    lines = str(caught.value).removeprefix(f"{path.parent}/").splitlines()
    assert lines[0] == error
    assert HINT not in lines


def test_spellings_of_a_label_are_one_label_and_that_is_said(write: Write) -> None:
    path = write("a.csv", "text,mood\na,caf\u00e9\nb,cafe\u0301\nc, tea\nd,tea\n")
    found = rows(path, "mood")
    assert found.labels["mood"] == ["caf\u00e9", "caf\u00e9", "tea", "tea"]
    assert found.warnings == [
        "task mood: 2 of 4 labels are read in another spelling, as tasks.mood.labels says: "
        f"'cafe\\u0301' as 'café' ({path}:3), ' tea' as 'tea' ({path}:4)"
    ]


def test_labels_can_be_taken_as_they_are_written(write: Write) -> None:
    path = write("a.csv", "text,mood\na,x \nb,cafe\u0301\nc, \n")
    found = rows(path, "mood", labels={"strip": False, "normalize": None})
    assert (found.labels["mood"], found.warnings) == (["x ", "cafe\u0301", " "], [])


def test_tasks_of_one_column_may_read_its_labels_otherwise(write: Write) -> None:
    path = write("a.csv", "text,mood\na,Good\nb,good\n")
    columns = {
        "one": LabelColumns(("mood",), LabelFormat()),
        "other": LabelColumns(("mood",), LabelFormat(casefold=True)),
    }
    found = read_table(path, Source(path=path), columns)
    assert found.labels == {"one": ["Good", "good"], "other": ["good", "good"]}


def test_strata_are_taken_as_they_are_written(write: Write) -> None:
    found = rows(write("a.csv", "text,mood,topic\na,x,t \nb,y,t\n"), "mood", by="topic")
    assert (found.strata, found.warnings) == (["t ", "t"], [])


def test_a_label_of_blanks_is_an_empty_label(write: Write) -> None:
    assert errors(write("a.csv", "text,mood\na,x\nb, \n"), "mood") == ["a.csv:3: mood: the label is empty"]


def test_labels_that_cannot_name_a_class_are_refused_with_their_rows(write: Write) -> None:
    path = write("a.csv", f"text,mood\na,x\0y\nb,{'z' * 100_000}\n")
    control, long = errors(path, "mood")
    assert control == "a.csv:2: mood: a label must not hold a control character (U+0000), got 'x\\x00y'"
    assert long == f"a.csv:3: mood: a label has at most 1,000 characters, got 100,000: '{'z' * 57}...'"


def test_how_a_file_was_read_is_among_its_warnings(write: Write) -> None:
    path = write("a.csv", "text;mood\na;x\n")
    assert rows(path, "mood").warnings == [f"{path}: columns are separated by semicolons, as the first line shows"]


REVIEWS = r"(?P<category>\S+) (?P<sentiment>\S+) (?P<id>\S+) (?P<text>.*)"


def test_the_real_reviews_are_read_to_the_last_line(reviews: Path) -> None:
    found = rows(reviews, "category", "sentiment", pattern=REVIEWS)
    assert len(found.texts) == 4000
    assert found.locations[-1] == f"{reviews}:4000"
    assert set(found.labels["sentiment"]) == {"pos", "neg"}
    assert set(found.labels["category"]) == {"books", "camera", "dvd", "health", "music", "software"}
    assert found.digest == hashlib.sha256(reviews.read_bytes()).hexdigest()


@pytest.fixture
def questions(reviews: Path) -> Path:
    """Real questions with a label each, in ISO-8859-1."""
    path = reviews.with_name("trec.train.txt")
    if not path.exists():
        pytest.skip(f"the real questions are not at {path}")
    return path


def test_real_latin_1_is_refused_as_utf8_and_read_as_what_it_is(questions: Path) -> None:
    pattern = r"(?P<type>\d) (?P<text>.*)"
    (error,) = errors(questions, "type", pattern=pattern)
    assert error.startswith("trec.train.txt:66: byte ")
    assert "(0xf0) is not utf-8; set `encoding` of the source" in error
    found = rows(questions, "type", pattern=pattern, encoding="latin-1")
    assert len(found.texts) == 5452
    assert "sister\xf0city" in found.texts[65]
    assert set(found.labels["type"]) == set("012345")


def test_a_row_that_is_faulty_otherwise_does_not_decide_how_labels_are_read(write: Write) -> None:
    content = lines_of_json({"text": "", "mood": {"p": 1}}, {"text": "", "mood": 3}, {"text": "a", "mood": "good"})
    path = write("a.jsonl", content)
    tasks = {"mood": LabelColumns(("mood",), LabelFormat(), spaces=(Classes, Distribution), head="classification")}
    found = read_table(path, Source(path=path, on_faulty_rows="skip"), tasks)
    assert found.labels == {"mood": ["good"]}
    assert found.spaces == {"mood": Classes}
