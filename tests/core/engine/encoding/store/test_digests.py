"""Digests are found among others, whatever stands twice and whatever begins alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.engine.encoding.store import digests as module
from topwork.engine.encoding.store.digests import Digests

#: Digests of which several begin alike, and some end with zeros.
Digest = st.tuples(
    st.sampled_from([b"a" * 8, b"b" * 8, b"\0" * 8]), st.sampled_from([b"x" * 24, b"y" * 24, b"\0" * 24])
).map(b"".join)


@given(st.lists(Digest, max_size=20), st.lists(Digest, max_size=9, unique=True), st.integers(1, 10))
def test_those_that_are_held_are_found_at_their_places(wanted: list[bytes], held: list[bytes], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        parts = list(Digests.of(wanted).find(Digests.of(held)))
    found = [pair for numbers, places in parts for pair in zip(numbers.tolist(), places.tolist(), strict=True)]
    assert sorted(found) == sorted((number, held.index(one)) for number, one in enumerate(wanted) if one in held)


@given(st.lists(Digest, min_size=1, max_size=9), st.data())
def test_they_are_a_sequence_of_bytes(digests: list[bytes], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(digests) - 1))
    every = Digests.of(digests)
    assert list(every) == digests
    assert every[number] == digests[number]
    assert digests[number] in every
