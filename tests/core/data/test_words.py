"""Texts that are divided into words, with a class for each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from topwork.data.dataset import load_dataset
from topwork.data.table import Table, read_table
from topwork.data.texts import MAX_WORDS, Words, parts_of, written
from topwork.errors import DataError
from topwork.experiment.label_format import LabelColumns, LabelFormat, OnMissing
from topwork.experiment.source import Source, Split
from topwork.interfaces.labels import NO_LABEL, Classes, WordLabels

Write = Callable[..., Path]


def columns(missing: OnMissing = "error", **format: Any) -> dict[str, LabelColumns]:
    return {"tag": LabelColumns(("tags",), LabelFormat(**format), missing, (WordLabels,), "tagging")}


def read(path: Path, missing: OnMissing = "error", on_faulty_rows: Any = "error", **format: Any) -> Table:
    return read_table(path, Source(path=path, words="words", on_faulty_rows=on_faulty_rows), columns(missing, **format))


def as_json(*rows: tuple[Any, Any]) -> str:
    return "".join(json.dumps({"words": words, "tags": tags}) + "\n" for words, tags in rows)


def errors(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    lines = str(caught.value).splitlines()
    return [line.removeprefix(f"{path.parent}/") for line in lines if not line.startswith(("to leave", "where rows"))]


def test_words_and_their_classes_are_lists_or_texts_divided_at_blanks(write: Write) -> None:
    lists = read(write("a.jsonl", as_json((["a", "new york"], ["X", "Y"]), (["b"], ["X"]))))
    assert lists.texts == [Words(("a", "new york")), Words(("b",))]
    assert lists.labels == {"tag": [("X", "Y"), ("X",)]}
    assert lists.spaces == {"tag": WordLabels}
    cells = read(write("a.csv", "words,tags\na  b,X Y\n"))
    assert (cells.texts, cells.labels) == ([Words(("a", "b"))], {"tag": [("X", "Y")]})
    parted = read(write("b.csv", "words,tags\na b,X|Y\n"), separator="|")
    assert parted.labels == {"tag": [("X", "Y")]}


def test_a_conllu_file_has_words_and_classes(write: Write) -> None:
    line = "1\tWe\twe\tPRON\t_\t_\t0\troot\t_\t_\n"
    path = write("a.conllu", f"# text = We\n{line}\n{line.replace('We', 'I')}")
    labels = {"tag": LabelColumns(("upos",), LabelFormat(), spaces=(WordLabels,), head="tagging")}
    found = read_table(path, Source(path=path, words="form"), labels)
    assert found.texts == [Words(("We",)), Words(("I",))]
    assert found.labels == {"tag": [("PRON",), ("PRON",)]}
    assert found.locations == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["a", "b"], ["X"], "tags: 1 labels for 2 words"),
        ([], ["X"], "words: the text has no word"),
        ("  ", ["X"], "words: the text is empty"),
        (None, ["X"], "words: the text is missing"),
        (["a", " "], ["X", "Y"], "words: word 2 of 2: the text is empty"),
        (["a", 1], ["X", "Y"], "words: word 2 of 2: a text must be a string, got 1"),
        (["\ud800"], ["X"], "words: word 1 of 1: the text holds half a character (a lone surrogate)"),
        ("a " * (MAX_WORDS + 1), "X", "words: a text has at most 10,000 words, got 10,001; divide it"),
        (["a"] * (MAX_WORDS + 1), "X", "words: a text has at most 10,000 words, got 10,001; divide it"),
        (["a", "b"], ["X", {}], "tags: a label must be a text or a whole number, got {}"),
        (["a", "b"], ["X", None], "tags: of the labels of 2 words, word 2 has none"),
        (["a", "b"], [None, ""], "tags: of the labels of 2 words, none has one"),
        (["a", "b"], None, "tags: the label is missing"),
    ],
)
def test_rows_that_are_wrong_are_told(write: Write, words: Any, tags: Any, message: str) -> None:
    assert errors(write("a.jsonl", as_json((words, tags)))) == [f"a.jsonl:1: {message}"]


def test_a_head_for_words_takes_one_column(write: Write) -> None:
    path = write("a.csv", "words,x,y\na,1,0\n")
    tasks = {"tag": LabelColumns(("x", "y"), LabelFormat(), spaces=(WordLabels,), head="tagging")}
    with pytest.raises(DataError, match="x, y: head tagging takes one class for each word, got 2 columns"):
        read_table(path, Source(path=path, words="words"), tasks)


def test_words_without_a_class_are_left_out_where_the_task_says_so(write: Write) -> None:
    path = write("a.jsonl", as_json((["a", "b", "c"], ["X", None, "Y"]), (["d"], [""]), (["e", "f"], ["Y", "X"])))
    source = Source(path=path, words="words", split=Split(test=0.0))
    dataset = load_dataset({"rows": source}, {"rows": columns(missing="skip")})
    rows = dataset.splits["train"]
    assert dataset.labels == {"tag": WordLabels(("X", "Y"))}
    assert dataset.labels["tag"].counts == (2, 2)  # type: ignore[union-attr]
    assert rows.texts == [Words(("a", "b", "c")), Words(("e", "f"))]
    assert rows.targets["tag"].tolist() == [[0, NO_LABEL, 1], [1, 0, NO_LABEL]]
    assert dataset.warnings[0].endswith(
        f"1 of 3 rows have no label of any task and were left out; the first is {path}:2"
    )


def test_classes_of_words_are_named_and_ordered_as_the_task_says(write: Write) -> None:
    path = write("a.jsonl", as_json((["a", "b"], ["x", " Y"])))
    source = Source(path=path, words="words", split=Split(test=0.0))
    dataset = load_dataset({"rows": source}, {"rows": columns(order=("Z", "Y", "one"), rename={"x": "one"})})
    assert dataset.labels["tag"].names == ("Z", "Y", "one")
    assert dataset.splits["train"].targets["tag"].tolist() == [[2, 1]]


def test_a_class_that_no_training_word_has_is_told_once_a_row(write: Write) -> None:
    path = write("a.jsonl", as_json(*[(["a", "b"], ["X", "Y"])] * 4, (["c", "d"], ["Z", "Z"])))
    source = Source(path=path, words="words", split=Split(test=0.2))
    with pytest.raises(DataError) as caught:
        load_dataset({"rows": source}, {"rows": columns()})
    assert str(caught.value) == (
        f"{path}:5: tags: label 'Z' of task tag does not occur in the training rows, which have X, Y\n"
        "to have classes without a training row, name all in tasks.tag.labels.order"
    )


def test_sources_with_words_and_without_stand_side_by_side(write: Write) -> None:
    words = Source(path=write("a.jsonl", as_json((["a"], ["X"]), (["b", "c"], ["Y", "X"]))), words="words")
    texts = Source(path=write("b.csv", "text,kind\na b,u\nc,v\n"))
    kinds = {"kind": LabelColumns(("kind",), LabelFormat(), spaces=(Classes,))}
    split = {"split": Split(test=0.0)}
    sources = {"words": words.model_copy(update=split), "texts": texts.model_copy(update=split)}
    rows = load_dataset(sources, {"words": columns(), "texts": kinds}).splits["train"]
    assert rows.targets["tag"].tolist() == [[0, NO_LABEL], [1, 0], [NO_LABEL] * 2, [NO_LABEL] * 2]
    assert rows.labelled["tag"].tolist() == [True, True, False, False]
    assert rows.targets["kind"][2:].tolist() == [0, 1]
    assert rows.texts[2:] == ["a b", "c"]


def test_a_text_is_written_in_one_line() -> None:
    assert [written(text) for text in ("a b", ("a", "b"), Words(("a", "b")))] == ["a b", "a\tb", "a b"]
    assert parts_of(Words(("a", "b"))) == ("a", "b")


def test_changes_of_spelling_are_counted_label_by_label(write: Write) -> None:
    path = write("a.jsonl", as_json((["a", "b", "c"], [" X", "X ", "Y"]), (["d"], ["Y"])))
    (warning,) = read(path).warnings
    assert "task tag: 2 of 4 labels are read in another spelling" in warning
    assert f"' X' as 'X' ({path}:1), 'X ' as 'X' ({path}:1)" in warning


def test_another_name_for_what_no_label_is_called_is_told(write: Write) -> None:
    path = write("a.jsonl", as_json((["a", "b"], ["X", "Y"])))
    source = Source(path=path, words="words", split=Split(test=0.0))
    dataset = load_dataset({"rows": source}, {"rows": columns(rename={"X": "Z", "x": "z"})})
    assert dataset.warnings == ["task tag has no label x, which labels.rename gives another name"]


def test_sentences_may_lack_comments_where_the_task_says_so(write: Write) -> None:
    line = "1\tWe\twe\tPRON\t_\t_\t0\troot\t_\t_\n"
    path = write("a.conllu", f"# genre = news\n{line}\n{line}\n# genre = mail\n{line}")
    tasks = {
        "tag": LabelColumns(("upos",), LabelFormat(), spaces=(WordLabels,)),
        "genre": LabelColumns(("genre",), LabelFormat(), "skip"),
    }
    found = read_table(path, Source(path=path, words="form"), tasks)
    assert found.labels["genre"] == ["news", None, "mail"]


def test_a_key_that_a_row_of_json_lacks_is_a_missing_label(write: Write) -> None:
    path = write("a.jsonl", '{"text": "a", "mood": "good"}\n{"text": "b", "kind": "x"}\n')
    tasks = {name: LabelColumns((name,), LabelFormat(), "skip") for name in ("mood", "kind")}
    assert read_table(path, Source(path=path), tasks).labels == {"mood": ["good", None], "kind": [None, "x"]}
    strict = {"mood": LabelColumns(("mood",), LabelFormat())}
    with pytest.raises(
        DataError, match=r":2: mood: there is no such column, only text, kind\n(.*\n)*where rows may lack"
    ):
        read_table(path, Source(path=path), strict)
