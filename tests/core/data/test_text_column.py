"""Texts come back as they were stored, from one store or several."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.row_values import PART
from topwork.data.text_column import Texts, from_bytes, to_bytes
from topwork.data.texts import Text, Words

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
TEXTS: st.SearchStrategy[Text] = (
    STRINGS | st.tuples(STRINGS, STRINGS) | st.lists(STRINGS, max_size=4).map(lambda words: Words(tuple(words)))
)


@given(TEXTS, TEXTS)
def test_the_bytes_of_a_text_are_its_own(first: Text, second: Text) -> None:
    assert from_bytes(to_bytes(first)) == first
    assert (to_bytes(first) == to_bytes(second)) == (first == second)


def test_a_text_a_pair_and_words_of_equal_parts_differ() -> None:
    texts: list[Text] = ["a", "ab", ("a", "b"), ("ab", ""), ("", "ab"), Words(("a", "b")), Words(("ab",)), Words(())]
    assert len({to_bytes(text) for text in texts}) == len(texts)


@given(st.lists(TEXTS, max_size=8))
def test_texts_are_what_was_stored(texts: list[Text]) -> None:
    stored = Texts.of(texts)
    assert len(stored) == len(texts)
    assert stored == texts
    assert stored[::-1] == texts[::-1]
    assert [stored[row] for row in range(-len(texts), len(texts))] == texts * 2
    rows = np.arange(len(texts))[::2]
    assert stored[rows] == texts[::2]
    assert stored[rows][1:] == texts[::2][1:]


@given(st.lists(st.lists(TEXTS, max_size=4), min_size=1, max_size=4))
def test_texts_of_several_stores_stand_one_after_another(parts: list[list[Text]]) -> None:
    texts = [text for part in parts for text in part]
    joined = Texts.join([Texts.of(part) for part in parts])
    assert joined == texts
    assert joined[::-2] == texts[::-2]
    assert Texts.join([joined[1:], joined]) == texts[1:] + texts


def test_many_and_long_texts_are_stored() -> None:
    texts: list[Text] = [*(f"text {number}" for number in range(3 * PART)), "é" * 3_000_000, "last"]
    stored = Texts.of(texts)
    assert stored == texts
    assert stored[np.array([3 * PART, 5])][1] == "text 5"


def test_no_text_is_copied_where_some_are_taken() -> None:
    stored = Texts.of(["a", "b", "c"])
    assert stored[1:].stores[0] is stored.stores[0]
    assert Texts.join([stored, stored]).stores[1] is stored.stores[0]
