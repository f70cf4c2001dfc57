"""The labels of the training rows make up a label space, and labels become targets of it."""

from typing import Any

import numpy as np
import pytest

from topwork.data.label_column import LabelColumn, RowLabel
from topwork.data.label_spaces import encode, find_space, find_unknown
from topwork.errors import DataError
from topwork.experiment.label_format import LabelColumns, LabelFormat
from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels


def found(space: type[LabelSpace], labels: list[RowLabel | None], *names: str, **rules: Any) -> LabelSpace:
    return find_space(
        "task", space, LabelColumns(names or ("y",), LabelFormat(**rules), head="some"), LabelColumn.of(labels, space)
    )


def error(space: type[LabelSpace], labels: list[RowLabel | None], *names: str) -> str:
    with pytest.raises(DataError) as caught:
        found(space, labels, *names)
    return str(caught.value)


def counts_of(space: LabelSpace) -> tuple[int, ...]:
    assert isinstance(space, Classes | LabelSet)
    return space.counts


def unknown(labels: list[RowLabel | None], space: LabelSpace) -> tuple[list[tuple[int, str]], int]:
    return find_unknown(LabelColumn.of(labels, type(space)), space, 20)


def test_classes_are_sorted_and_counted() -> None:
    space = found(Classes, ["b", "a", None, "b"])
    assert space == Classes(("a", "b"))
    assert counts_of(space) == (1, 2)


def test_whole_numbers_are_in_the_order_of_their_values() -> None:
    assert found(Classes, ["10", "9", "-1"]) == Classes(("-1", "9", "10"), ordered=True)


def test_numbers_that_are_one_have_no_order() -> None:
    assert found(Classes, ["01", "1", "2"]) == Classes(("01", "1", "2"), ordered=False)


def test_an_order_names_all_classes_also_such_as_do_not_occur() -> None:
    space = found(Classes, ["good", "bad"], order=("bad", "so so", "good"))
    assert space == Classes(("bad", "so so", "good"), ordered=True)
    assert counts_of(space) == (1, 0, 1)


def test_measurements_are_no_names_of_classes() -> None:
    assert error(Classes, ["3.80", "0", "0.0", "0.000", "4.25"]) == (
        "task task: column y holds 3 different numbers, such as 3.80, 0.0, 0.000, but head some takes one of several "
        "classes; for numbers use head regression, similarity; if they are names of classes, list them all in "
        "tasks.task.labels.order"
    )


def test_measurements_are_names_of_classes_where_an_order_says_so() -> None:
    assert found(Classes, ["0.5", "1.5"], order=("0.5", "1.5")) == Classes(("0.5", "1.5"), ordered=True)


def test_one_text_among_numbers_makes_them_names() -> None:
    assert found(Classes, ["1.5", "none"]) == Classes(("1.5", "none"))


def test_labels_of_sets_are_sorted_and_counted() -> None:
    space = found(LabelSet, [("b", "a"), (), ("b",), None])
    assert space == LabelSet(("a", "b"))
    assert counts_of(space) == (1, 2)


def test_labels_with_a_column_each_are_in_the_order_of_the_columns() -> None:
    assert found(LabelSet, [("b",), ()], "b", "a", rename={"a": "anger"}) == LabelSet(("b", "anger"))


def test_numbers_have_mean_and_scale() -> None:
    space = found(Numbers, [(1.0, 0.0), (3.0, 4.0), None], "y", "z")
    assert space == Numbers(("y", "z"), (), ())
    assert isinstance(space, Numbers)
    assert (space.mean, space.scale) == ((2.0, 2.0), (1.0, 2.0))


def test_shares_have_the_classes_of_all_rows() -> None:
    assert found(Distribution, [{"b": 1.0}, {"a": 0.5, "c": 0.5}]) == Distribution(("a", "b", "c"))
    assert found(Distribution, [{"b": 0.5, "a": 0.5}], "b", "a") == Distribution(("b", "a"))


@pytest.mark.parametrize(
    ("space", "labels", "message"),
    [
        (Classes, [None, None], "task task has no label in its 2 training rows; look at the split or the limit"),
        (
            Classes,
            ["a", "a"],
            "task task has one class only in its 2 training rows, 'a'; there is nothing to learn; "
            "look at the split or the limit",
        ),
        (
            Numbers,
            [(2.0,), (2.0,)],
            "task task has one number only in its 2 training rows, in column y; there is nothing to learn; "
            "look at the split or the limit",
        ),
        (LabelSet, [(), ()], "task task has only empty sets of labels in its 2 training rows"),
        (
            Distribution,
            [{"a": 1.0}],
            "task task has one class only in its 1 training rows, 'a'; there is nothing to learn; "
            "look at the split or the limit",
        ),
    ],
)
def test_labels_without_anything_to_learn_are_refused(
    space: type[LabelSpace], labels: list[RowLabel | None], message: str
) -> None:
    assert error(space, labels) == message


@pytest.mark.parametrize(
    ("space", "labels", "targets", "dtype"),
    [
        (Classes(("a", "b")), ["b", None, "a"], [1, 0, 0], np.int64),
        (LabelSet(("a", "b")), [("b",), (), ("b", "a"), None], [[0, 1], [0, 0], [1, 1], [0, 0]], np.float32),
        (Numbers(("y",), (0.0,), (1.0,)), [(0.5,), None], [[0.5], [0.0]], np.float32),
        (Numbers(("y", "z"), (0.0, 0.0), (1.0, 1.0)), [(0.5, 2.0)], [[0.5, 2.0]], np.float32),
        (Distribution(("a", "b")), [{"b": 0.25, "a": 0.75}, {"b": 1.0}], [[0.75, 0.25], [0.0, 1.0]], np.float32),
    ],
)
def test_labels_become_targets(
    space: LabelSpace, labels: list[RowLabel | None], targets: list[Any], dtype: type
) -> None:
    encoded = encode(LabelColumn.of(labels, type(space)), space)
    assert encoded.dtype == dtype
    assert encoded.tolist() == targets
    assert encode(LabelColumn.of([], None), space).shape == (0, *encoded.shape[1:])


def test_names_that_training_did_not_have_are_found() -> None:
    assert unknown(["a", "c"], Classes(("a", "b"))) == ([(1, "c")], 1)
    assert unknown([("a", "c"), ("d", "c")], LabelSet(("a", "b"))) == ([(0, "c"), (1, "d"), (1, "c")], 3)
    assert unknown([{"c": 1.0}], Distribution(("a", "b"))) == ([(0, "c")], 1)
    assert unknown([("d", None, "a", "d"), ("c",)], WordLabels(("a", "b"))) == ([(0, "d"), (1, "c")], 2)
    assert unknown([(7.0,)], Numbers(("y",), (0.0,), (1.0,))) == ([], 0)
    assert unknown([None], Classes(("a", "b"))) == ([], 0)


def test_of_many_unknown_names_the_first_are_named_and_all_are_counted() -> None:
    found, count = unknown(["a", *(f"{number}" for number in range(5000))], Classes(("a", "b")))
    assert (found, count) == ([(row, f"{row - 1}") for row in range(1, 21)], 5000)


def test_one_number_in_every_row_is_refused_however_it_is_rounded() -> None:
    columns = LabelColumns(("y",), LabelFormat(), spaces=(Numbers,))
    for rows in (3, 48, 432):
        with pytest.raises(DataError, match="task a has one number only"):
            find_space("a", Numbers, columns, LabelColumn.of([(0.1,)] * rows, Numbers))


def test_numbers_that_single_precision_cannot_tell_apart_are_refused() -> None:
    columns = LabelColumns(("y",), LabelFormat(), spaces=(Numbers,))
    with pytest.raises(DataError, match="the numbers in column y differ too little for their size"):
        find_space("a", Numbers, columns, LabelColumn.of([(1.7e9 + number,) for number in range(100)], Numbers))
    find_space("a", Numbers, columns, LabelColumn.of([(1.7e4 + number,) for number in range(100)], Numbers))
