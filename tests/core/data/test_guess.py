"""Columns are guessed from what is in them, and from their names where that says more."""

from typing import Any

import pytest

from topwork.data.guess import Column, guess, without_foreign

TEXTS = [f"some words about {thing} number {number}" for number, thing in enumerate(["cats", "dogs"] * 15)]


def columns(**cells: list[Any]) -> dict[str, Column]:
    """What columns beside one of texts seem to be."""
    count = max(map(len, cells.values()))
    rows = [
        {"text": TEXTS[row], **{name: values[row % len(values)] for name, values in cells.items()}}
        for row in range(max(count, 30))
    ]
    found = guess(rows)
    assert [text.name for text in found.texts] == ["text"]
    return {column.name: column for column in (*found.labels, *found.others)}


@pytest.mark.parametrize(
    ("cells", "kind", "why"),
    [
        (["pos", "neg"], "classes", "2 classes"),
        (["1", "2", "3"], "classes", "3 whole numbers"),
        ([1, 2, 3], "classes", "3 whole numbers"),
        ([0.5, 1.5, 2], "numbers", "numbers from 0.5 to 2"),
        ([f"{n / 7:.3f}" for n in range(30)], "numbers", "numbers from 0 to 4.143"),
        ([str(n) for n in range(30)], None, "it numbers the rows"),
        ([f"id-{n}" for n in range(30)], None, "30 different values in 30 rows"),
        (["same"], None, "it is the same in all rows"),
        ([7], None, "it is the same in all rows"),
        (["", None, " "], None, "it is empty"),
        (["a|b", "a", "b|c"], "sets", "3 labels, several in a cell"),
        (["rock, pop", "jazz", "rock", "pop, jazz"], "sets", "3 labels, several in a cell"),
        (["one, two", "three"], "classes", "2 classes"),  # a comma in a name
        ([["a", "b"], ["b"]], "sets", "lists of 2 different labels"),
        ([{"yes": 2, "no": 1}], "shares", "objects with shares of classes"),
        ([["a"], "b"], None, "it has lists or objects in some rows alone"),
        ([f"a longer sentence of its own {n}" for n in range(30)], "text", "texts of 7 words"),
        ([0.0, 1.0], "numbers", "numbers from 0 to 1"),
        (["nan", "1.5", "2.5", "inf"], None, "numbers, of which some are not finite"),
        ([[0.5, 1.5], [2.5]], None, "lists of other things than names"),
        ([[["a"], ["b"]]], None, "lists of other things than names"),
        ([{"a": 1, "b": {"c": 2}}], None, "objects of other things than numbers"),
        (["a\nb", "c"], None, "it has control characters"),
    ],
)
def test_a_column_is_what_its_cells_look_like(cells: list[Any], kind: str | None, why: str) -> None:
    found = columns(column=cells)["column"]
    assert (found.kind, found.why) == (kind, why)


def test_missing_cells_and_classes_are_counted() -> None:
    found = columns(label=["a", "a", "b", None, ""])["label"]
    assert found.missing == 12
    assert found.classes == {"a": 12, "b": 6}


def test_what_separates_labels_is_found() -> None:
    found = columns(label=["a;b", "a", "b;c"])["label"]
    assert found.separator == ";"
    assert found.classes == {"a": 20, "b": 20, "c": 10}


def test_the_name_decides_among_several_texts() -> None:
    rows = [{"summary": f"{text} and so on and so on and so on", "review": text} for text in TEXTS]
    found = guess(rows)
    assert [text.name for text in found.texts] == ["review"]
    assert [column.name for column in found.others] == ["summary"]


def test_a_column_that_is_named_so_has_texts_also_without_blanks() -> None:
    rows = [{"Text": f"这本书非常好看我很喜欢第{number}次", "label": "ab"[number % 2]} for number in range(30)]
    assert [text.name for text in guess(rows).texts] == ["Text"]


def test_the_longest_texts_are_taken_where_no_name_tells() -> None:
    rows = [{"headline": text, "story": 5 * text} for text in TEXTS]
    assert [text.name for text in guess(rows).texts] == ["story"]


@pytest.mark.parametrize("names", [("premise", "hypothesis"), ("left", "right")])
def test_two_texts_of_like_length_are_a_pair(names: tuple[str, str]) -> None:
    rows = [{names[0]: text, names[1]: text.upper(), "same": "yn"[n % 2]} for n, text in enumerate(TEXTS)]
    found = guess(rows)
    assert tuple(text.name for text in found.texts) == names
    assert [column.name for column in found.labels] == ["same"]


def test_words_have_labels_of_their_own() -> None:
    rows = [
        {"tokens": text.split(), "tags": ["X" if word.isdigit() else "Y" for word in text.split()], "kind": "ab"[n % 2]}
        for n, text in enumerate(TEXTS)
    ]
    found = guess(rows)
    assert (found.texts[0].name, found.texts[0].kind) == ("tokens", "words")
    assert {column.name: column.kind for column in found.labels} == {"tags": "word labels", "kind": "classes"}


def test_rows_without_texts_are_refused_with_what_was_seen() -> None:
    with pytest.raises(ValueError, match=r"no column seems to have texts \(a: 2 classes; b: it numbers the rows\)"):
        guess([{"a": "xy"[n % 2], "b": n} for n in range(30)])


def test_classes_that_differ_between_files_are_set_aside() -> None:
    rows = [{"text": text, "year": "2012", "genre": "ab"[n % 2], "file": "cd"[n % 2]} for n, text in enumerate(TEXTS)]
    found = without_foreign(guess(rows), [{"text": "x", "genre": "a", "file": "e"}])
    assert [column.name for column in found.labels] == ["genre"]
    assert {column.name: column.why for column in found.others}["file"] == "its classes are others in the other files"
