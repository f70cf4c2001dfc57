"""Where rows come from, and how they are divided."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from topwork.experiment.source import HubDataset, Source, Split


def errors(source: dict[str, Any]) -> dict[str, str]:
    """What is wrong with a source, by dotted path."""
    with pytest.raises(ValidationError) as caught:
        Source.model_validate(source)
    return {".".join(map(str, e["loc"])): e["msg"].removeprefix("Value error, ") for e in caught.value.errors()}


def test_the_default_split_keeps_the_last_fifth_for_testing() -> None:
    assert Split().model_dump() == {"validation": 0.0, "test": 0.2, "method": "in_order", "by": None, "seed": 0}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({}, "give path, or train and, where there are such rows, validation and test"),
        ({"test": "t.csv"}, "give path, or train and, where there are such rows, validation and test"),
        (
            {"path": "a.csv", "train": "t.csv", "test": "s.csv"},
            "give either path or one file for each split, not path and train, test",
        ),
        (
            {"train": "t.csv", "test": "s.csv", "split": {"test": 0.1}},
            "beside a file train, split takes validation rows alone; leave out split.test",
        ),
        (
            {"train": "t.csv", "split": {"method": "random"}},
            "beside a file train, split takes validation rows from it: set split.validation, or leave out split",
        ),
        (
            {"train": "t.csv", "validation": "v.csv", "split": {"validation": 0.1}},
            "give either a validation file or split.validation, which takes rows of train",
        ),
    ],
    ids=["no file", "test alone", "path and files", "files and test", "files and nothing", "two for validation"],
)
def test_a_source_has_one_file_or_one_for_each_split(source: dict[str, Any], error: str) -> None:
    assert errors(source) == {"": error}


def test_a_source_lists_its_files_by_split() -> None:
    assert Source(path=Path("/a.csv")).files() == {"all": Path("/a.csv")}
    files = Source(test=Path("/c.csv"), train=Path("/a.csv")).files()
    assert files == {"train": Path("/a.csv"), "test": Path("/c.csv")}


def test_the_path_of_a_script_is_from_here_and_that_of_a_file_as_it_is_written() -> None:
    assert Source(path=Path("a.csv")).path == Path.cwd() / "a.csv"
    assert Source.model_validate({"path": "a.csv"}, context={}).path == Path("a.csv")


@pytest.mark.parametrize(
    ("split", "error"),
    [
        ({"validation": 0.5, "test": 0.5}, "validation + test must leave rows to train on, but is 1"),
        ({"validation": 0.9}, "validation + test must leave rows to train on, but is 1.1"),
        ({"method": "stratified"}, "`by: COLUMN` goes together with `method: stratified`"),
        ({"by": "mood"}, "`by: COLUMN` goes together with `method: stratified`"),
        ({"method": "random", "by": "mood"}, "`by: COLUMN` goes together with `method: stratified`"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: dict[str, Any], error: str) -> None:
    assert errors({"path": "a.csv", "split": split}) == {"split": error}


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, True, "0.2", float("nan"), float("inf")], ids=repr)
def test_a_fraction_is_a_number_from_0_to_below_1(fraction: object) -> None:
    source = {"path": "a.csv", "split": {"test": fraction}}
    assert set(errors(source)) == {"split.test"}


def test_an_encoding_that_text_files_do_not_have_is_refused() -> None:
    found = errors({"path": "reviews.csv", "encoding": "undefined"})
    assert found == {"encoding": "unknown encoding 'undefined'; try utf-8, utf-16, latin-1 or cp1252"}


def test_faulty_rows_are_errors_by_default() -> None:
    assert Source(path=Path("a.csv")).on_faulty_rows == "error"
    found = errors({"path": "reviews.csv", "on_faulty_rows": "drop"})
    assert list(found) == ["on_faulty_rows"]


def test_a_source_has_one_text_column_or_two_or_one_with_words() -> None:
    path = Path("a.csv")
    assert Source(path=path).text_columns == ("text",)
    assert Source(path=path, text=("first", "second")).text_columns == ("first", "second")
    assert Source(path=path, words="tokens").text_columns == ("tokens",)
    assert any(place.startswith("text") for place in errors({"path": "a.csv", "text": ["a", "b", "c"]}))
    assert list(errors({"path": "a.csv", "words": ""})) == ["words"]
    either = "give either text or words; heads that read texts whole read words as one text"
    assert errors({"path": "a.csv", "text": "body", "words": "tokens"}) == {"": either}


def test_a_dump_of_a_source_with_words_is_read_back() -> None:
    source = Source(path=Path("a.csv"), words="tokens")
    assert Source.model_validate(source.model_dump(mode="json")) == source


@pytest.mark.parametrize("columns", [["a", "a"], ["a", ""], ["...", "a"]], ids=repr)
def test_each_column_has_a_name_of_its_own(columns: list[str]) -> None:
    found = errors({"path": "reviews.csv", "columns": columns})
    assert found == {"columns": "give each column a name of its own; ... may be the last"}


def test_a_pattern_names_its_columns_itself() -> None:
    source = {"path": "reviews.txt", "pattern": "(?P<text>.*)", "columns": ["text"]}
    assert list(errors(source).values()) == ["a pattern names its columns itself; leave out columns"]


@pytest.mark.parametrize(
    ("hub", "error"),
    [
        ({}, "give all, or train and, where there are such splits, validation and test"),
        ({"test": "test"}, "give all, or train and, where there are such splits, validation and test"),
        ({"all": "train", "test": "test"}, "give either all or a split for each, not all and test"),
    ],
)
def test_a_data_set_of_the_hub_has_one_split_or_one_for_each(hub: dict[str, str], error: str) -> None:
    assert errors({"hub": {"name": "acme/films", **hub}}) == {"hub": error}


@pytest.mark.parametrize("name", ["", "../films", "a/b/c", "/etc", "acme/..", ".hidden/x"], ids=repr)
def test_the_name_of_a_data_set_is_no_path(name: str) -> None:
    assert list(errors({"hub": {"name": name, "all": "train"}})) == ["hub.name"]


def test_a_source_has_files_or_a_data_set_of_the_hub() -> None:
    hub = {"name": "acme/films", "train": "train"}
    either = "give either hub or files; what is in the Hub has columns with names"
    for more in ({"path": "a.csv"}, {"test": "b.csv"}, {"columns": ["text"]}, {"pattern": "(?P<text>.*)"}):
        assert errors({"hub": hub, **more}) == {"": either}
    assert errors({"hub": hub, "split": {"test": 0.2}}) == {
        "": "beside a file train, split takes validation rows alone; leave out split.test"
    }


def test_what_is_in_the_hub_stands_for_files() -> None:
    source = Source(hub=HubDataset(name="acme/films", train="a", test="b"))
    assert source.files() == {"train": Path("hub:acme/films/a.parquet"), "test": Path("hub:acme/films/b.parquet")}
    assert Source(hub=HubDataset(name="acme/films", all="a")).files() == {"all": Path("hub:acme/films/a.parquet")}


def test_a_pair_has_two_columns() -> None:
    assert errors({"path": "a.csv", "text": ["a", "a"]}) == {"text": "a pair needs two columns"}
