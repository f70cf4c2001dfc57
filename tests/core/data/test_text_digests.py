"""Equal texts are found by their digests."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.row_values import PART
from topwork.data.text_column import Texts
from topwork.data.text_digests import count_distinct, digests_of, first_rows
from topwork.data.texts import Text, Words

TEXTS: list[Text] = ["a", "b", "ab", ("a", "b"), Words(("a", "b")), "c", "d"]


def first_of(texts: list[Text]) -> list[int]:
    met: dict[Text, int] = {}
    return [met.setdefault(text, row) for row, text in enumerate(texts)]


@given(st.lists(st.sampled_from(TEXTS), max_size=20))
def test_each_text_is_met_first_where_it_is(texts: list[Text]) -> None:
    found = first_rows(digests_of([Texts.of(texts)]))
    assert found.tolist() == first_of(texts)
    assert count_distinct(found, len(texts)) == len(set(texts))


def test_lists_have_the_digests_of_what_is_stored() -> None:
    assert np.array_equal(digests_of([TEXTS, TEXTS[:2]]), digests_of([Texts.of([*TEXTS, *TEXTS[:2]])]))


def test_equal_texts_are_found_among_more_than_are_looked_at_at_once() -> None:
    texts: list[Text] = [f"{number * number % 3001}" for number in range(3 * PART)]
    assert first_rows(digests_of([texts])).tolist() == first_of(texts)


def test_both_halves_of_a_digest_count() -> None:
    digests = np.array([[1, 2], [1, 3], [2, 2], [1, 2], [0, 0]], np.uint64)
    assert first_rows(digests).tolist() == [0, 1, 2, 0, 4]
