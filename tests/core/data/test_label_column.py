"""Labels come back as they were stored, and are counted as numbers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.label_column import NO_NAME, LabelColumn, RowLabel
from topwork.data.row_values import PART
from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels

NAMES = st.sampled_from(["a", "b", "c", "é"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LABELS: dict[type[LabelSpace], st.SearchStrategy[RowLabel]] = {
    Classes: NAMES,
    LabelSet: st.lists(NAMES, unique=True).map(tuple),
    WordLabels: st.lists(NAMES | st.none(), min_size=1).map(tuple),
    Numbers: st.tuples(NUMBERS, NUMBERS),
    Distribution: st.dictionaries(NAMES, NUMBERS, min_size=1),
}


def drawn_labels(space: type[LabelSpace]) -> st.SearchStrategy[tuple[type[LabelSpace], list[RowLabel | None]]]:
    return st.tuples(st.just(space), st.lists(st.none() | LABELS[space], max_size=8))


@given(st.sampled_from(list(LABELS)).flatmap(drawn_labels))
def test_labels_are_what_was_stored(drawn: tuple[type[LabelSpace], list[RowLabel | None]]) -> None:
    space, labels = drawn
    stored = LabelColumn.of(labels, space)
    assert stored == labels
    assert stored[::-1] == labels[::-1]
    assert stored.labelled.tolist() == [label is not None for label in labels]
    rows = np.arange(len(labels))[::2]
    assert stored[rows] == labels[::2]
    assert stored[rows][::-1] == labels[::2][::-1]


@given(st.sampled_from([Classes, LabelSet, WordLabels, Distribution]).flatmap(drawn_labels), st.integers(0, 3))
def test_names_are_counted_as_they_are_met(drawn: tuple[type[LabelSpace], list[RowLabel | None]], start: int) -> None:
    space, labels = drawn
    names = [name for label in labels[start:] if label is not None for name in label if name is not None]
    counted = LabelColumn.of(labels, space)[start:].counts()
    assert list(counted.items()) == list(Counter(names).items())


def test_what_labels_consist_of_knows_its_row_and_place() -> None:
    labels: list[RowLabel | None] = [("a", None), None, ("b", "a", "b")]
    (entries,) = LabelColumn.of(labels, WordLabels).entries()
    assert entries.rows.tolist() == [0, 0, 2, 2, 2]
    assert entries.places.tolist() == [0, 1, 0, 1, 2]
    assert entries.codes.tolist() == [0, NO_NAME, 1, 0, 1]
    assert len(entries.numbers) == 0


@pytest.mark.parametrize("space", list(LABELS))
def test_more_labels_than_are_looked_at_at_once_are_stored(space: type[LabelSpace]) -> None:
    one: dict[type[LabelSpace], RowLabel] = {
        Classes: "a",
        LabelSet: ("a", "b"),
        WordLabels: ("a", None),
        Numbers: (1.0, 2.0),
        Distribution: {"a": 0.5, "b": 0.5},
    }
    labels = [one[space], None, one[space]] * PART
    stored = LabelColumn.of(labels, space)
    assert stored == labels
    assert [*np.concatenate([entries.rows for entries in stored.entries()])] == sorted(
        row for row, label in enumerate(labels) for _ in (label or ()) if label
    )


def test_no_label_is_of_no_space() -> None:
    stored = LabelColumn.of([None, None], None)
    assert stored == [None, None]
    assert (stored.counts(), stored.labelled.tolist()) == ({}, [False, False])


def test_equal_names_are_one_object() -> None:
    stored = LabelColumn.of(["".join(["a", "b"]), "".join(["a", "b"])], Classes)
    assert stored[0] is stored[1]
