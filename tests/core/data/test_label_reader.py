"""What stands in label columns is read as the label space of the head, or refused with its column."""

from typing import Any

import pytest

from topwork.data.label_reader import LabelReader, RowLabel, describe_spaces
from topwork.data.labels import MissingLabelError
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers

Spaces = tuple[type[LabelSpace], ...]


def reader(spaces: Spaces, *names: str, **rules: Any) -> LabelReader:
    columns = LabelColumns(names or ("y",), LabelFormat(**rules), spaces=spaces, head="some")
    return LabelReader("task", columns)


def read(spaces: Spaces, *cells: Any, **rules: Any) -> RowLabel:
    """Read one row whose columns are y, or a, b, ..."""
    names = ("y",) if len(cells) == 1 else tuple("abcd"[: len(cells)])
    return reader(spaces, *names, **rules).read(dict(zip(names, cells, strict=True)))


def error(spaces: Spaces, *cells: Any, **rules: Any) -> str:
    with pytest.raises(ValueError) as caught:
        read(spaces, *cells, **rules)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cell", "rules", "label"),
    [
        (["a", "b"], {}, ("a", "b")),
        ([], {}, ()),
        (["b", "a ", "b"], {}, ("b", "a")),
        ("a|b", {"separator": "|"}, ("a", "b")),
        ("a, b", {"separator": ","}, ("a", "b")),
        ("27", {"separator": ","}, ("27",)),
        ("a|b", {}, ("a|b",)),
        ("2,0", {"separator": ",", "rename": {"0": "anger", "2": "joy"}}, ("joy", "anger")),
        ([1, 2], {}, ("1", "2")),
    ],
)
def test_a_set_of_labels_is_a_list_or_a_text_with_a_separator(
    cell: object, rules: dict[str, Any], label: RowLabel
) -> None:
    assert read((LabelSet,), cell, **rules) == label


@pytest.mark.parametrize("cells", [("0", "1", "1"), (0, 1, 1.0), (False, True, "true")])
def test_each_label_of_a_set_may_have_a_column(cells: tuple[object, ...]) -> None:
    assert read((LabelSet,), *cells) == ("b", "c")


def test_a_label_s_own_column_says_yes_or_no() -> None:
    assert error((LabelSet,), "0", "2") == "b: a label's own column must be 0 or 1, got '2'"


def test_an_empty_label_within_a_set_is_refused() -> None:
    assert error((LabelSet,), "a||b", separator="|") == "y: the label is empty"


@pytest.mark.parametrize(("cells", "label"), [(("3.8",), (3.8,)), ((1, "2.5"), (1.0, 2.5))])
def test_numbers_stand_in_one_column_or_several(cells: tuple[object, ...], label: RowLabel) -> None:
    assert read((Numbers,), *cells) == label


def test_what_is_no_number_is_told_with_its_column() -> None:
    assert error((Numbers,), 1, "high") == "b: a number is wanted, got 'high'"


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        (({"yes": 3, "no": 1},), {"yes": 0.75, "no": 0.25}),
        ((3, "1"), {"a": 0.75, "b": 0.25}),
        ((0.5, 0.5, 0), {"a": 0.5, "b": 0.5, "c": 0.0}),
    ],
)
def test_shares_of_classes_sum_to_one(cells: tuple[object, ...], label: RowLabel) -> None:
    assert read((Classes, Distribution), *cells) == label


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (({"yes": -1, "no": 1},), "y: a share must be a number from 0, got -1"),
        ((0, 0.0), "a, b: the shares of a row must not all be 0"),
        ((1, "many"), "b: a number is wanted, got 'many'"),
    ],
)
def test_what_are_no_shares_is_refused(cells: tuple[object, ...], message: str) -> None:
    assert error((Classes, Distribution), *cells) == message


def test_after_shares_a_class_is_refused() -> None:
    shares = reader((Classes, Distribution))
    shares.read({"y": {"yes": 1, "no": 2}})
    shares.keep("file:1")
    with pytest.raises(ValueError, match=r'^y: shares must be an object such as \{"yes": 2, "no": 1\}, got \'yes\'$'):
        shares.read({"y": "yes"})


def test_a_head_for_classes_or_shares_reads_a_column_of_names_as_classes() -> None:
    assert read((Classes, Distribution), "yes") == "yes"


@pytest.mark.parametrize(
    ("spaces", "cells", "message"),
    [
        ((Classes,), (1, 2), "a, b: head some takes one of several classes, got 2 columns"),
        ((Numbers,), ({"a": 1},), "y: head some takes numbers, got {'a': 1}"),
        ((Distribution,), ("yes",), "y: head some takes shares of classes, got 'yes'"),
    ],
)
def test_what_no_label_space_of_the_head_fits_is_refused(
    spaces: Spaces, cells: tuple[object, ...], message: str
) -> None:
    assert error(spaces, *cells) == message


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("",), "y: the label is empty"),
        ((None,), "y: the label is missing"),
        ((None, None), "a, b: the label is missing"),
    ],
)
def test_a_row_may_have_no_label(cells: tuple[object, ...], message: str) -> None:
    with pytest.raises(MissingLabelError) as caught:
        read((Numbers,), *cells)
    assert str(caught.value) == message


def test_a_label_of_which_a_part_is_missing_is_an_error() -> None:
    assert error((Numbers,), 1, None, "") == "b, c: empty, but a is not"


def test_a_missing_column_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"^z: there is no such column, only x, y$"):
        reader((Numbers,), "y", "z").read({"x": 1, "y": 2})


def test_a_name_that_the_order_lacks_is_refused() -> None:
    assert error((Classes,), "so so", order=("bad", "good")) == (
        "y: label 'so so' is not in labels.order, which has bad, good"
    )


def test_names_are_changed_by_the_rules_first_and_renamed_then() -> None:
    rules = {"casefold": True, "rename": {"p": "positive"}}
    renaming = reader((Classes,), **rules)
    assert renaming.read({"y": " P"}) == "positive"
    renaming.keep("file:2")
    (said,) = renaming.describe_changes()
    assert said.endswith("' P' as 'p' (file:2)")


def test_changes_of_rows_that_are_not_used_are_not_told() -> None:
    renaming = reader((Classes,), casefold=True)
    renaming.read({"y": "P"})
    assert list(renaming.describe_changes()) == []


def test_spaces_are_described_in_words() -> None:
    assert describe_spaces((Classes, LabelSet, Numbers, Distribution)) == (
        "one of several classes or sets of labels or numbers or shares of classes"
    )
