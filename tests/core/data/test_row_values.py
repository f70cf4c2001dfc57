"""Values that are made when they are asked for are those of a list."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork import mapped
from topwork.data.locations import Locations
from topwork.data.row_values import PART, some_of

PLACES = [None, *range(-12, 13)]


def some(count: int) -> tuple[Locations, list[str]]:
    numbers = np.stack([np.zeros(count, np.int64), np.arange(count) + 2], axis=1)
    return Locations((Path("a.csv"),), numbers), [f"a.csv:{row + 2}" for row in range(count)]


@given(st.integers(0, 9), *[st.sampled_from(PLACES)] * 2, st.sampled_from([None, -3, -1, 1, 2]))
def test_slices_are_those_of_a_list(count: int, start: int | None, stop: int | None, step: int | None) -> None:
    values, listed = some(count)
    rows = slice(start, stop, step)
    assert values[rows] == listed[rows]
    assert [*values[rows]] == listed[rows]


@given(st.integers(0, 9), st.integers(-12, 12))
def test_one_value_is_that_of_a_list(count: int, row: int) -> None:
    values, listed = some(count)
    if -count <= row < count:
        assert values[row] == values[np.int64(row)] == listed[row]
    else:
        with pytest.raises(IndexError):
            values[row]


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1)))))
def test_rows_are_taken_in_the_order_given(drawn: tuple[int, list[int]]) -> None:
    values, listed = some(drawn[0])
    taken = values[np.array(drawn[1], np.int64)]
    assert taken == [listed[row] for row in drawn[1]]
    assert taken[::-1] == [listed[row] for row in reversed(drawn[1])]


def test_more_values_than_are_made_at_once_are_gone_through() -> None:
    values, listed = some(2 * PART + 1)
    assert [*values] == listed
    assert listed[-1] in values
    assert [*reversed(values)][:2] == listed[:-3:-1]


def test_values_differ_where_one_does_or_there_are_more() -> None:
    values, listed = some(3)
    assert values == listed == values
    assert values != listed[:2]
    assert values != ["a.csv:2", "a.csv:3", "a.csv:5"]
    assert values != 3


def test_the_first_values_are_shown() -> None:
    assert repr(some(1000)[0]).startswith("Locations of 1,000 rows: ['a.csv:2', 'a.csv:3', ")


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    with pytest.raises(IndexError, match=rf"^of 3 rows, {min(0, row)} to {max(0, row)} are asked for$"):
        some_of(np.arange(3), np.array([0, row]))


def test_many_rows_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = np.arange(mapped.SMALL)
    rows = np.arange(len(array))[::-1]
    assert np.array_equal(some_of(array, rows), array[::-1])
    taken = some_of(array, rows)
    assert str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert taken[0] == len(array) - 1
