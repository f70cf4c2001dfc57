"""A row has one text or a pair of them, and what is none is told with its column."""

import pytest

from topwork.data.texts import Text, parts_of, read_text


@pytest.mark.parametrize(
    ("columns", "text"), [(("a",), "one"), (("a", "b"), ("one", "two")), (("b", "a"), ("two", "one"))]
)
def test_one_column_has_a_text_and_two_have_a_pair(columns: tuple[str, ...], text: Text) -> None:
    assert read_text({"a": "one", "b": "two"}, columns) == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": "one", "b": ""}, "b: the text is empty"),
        ({"a": None, "b": " "}, "a: the text is missing\nb: the text is empty"),
        ({"a": "one"}, "b: there is no such column, only a"),
        ({"a": 3, "b": "two"}, "a: a text must be a string, got 3"),
        ({"a": "one", "b": "\ud800"}, "b: the text holds half a character (a lone surrogate)"),
    ],
)
def test_what_is_no_text_is_told_with_its_column(row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_text(row, ("a", "b"))
    assert str(caught.value) == message


def test_the_parts_of_a_text_are_itself_or_both() -> None:
    assert parts_of("one") == ("one",)
    assert parts_of(("one", "two")) == ("one", "two")
