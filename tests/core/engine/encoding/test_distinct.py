"""Equal things get equal numbers, in the order in which they first come."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topwork.engine.encoding.distinct import KEY_BYTES, number_distinct


@given(st.lists(st.integers(0, 12), max_size=60), st.booleans())
def test_things_are_numbered_as_they_first_come(things: list[int], alike: bool) -> None:
    # keys that differ in their first or in their last bytes alone
    keys = [
        hashlib.sha256(str(one).encode()).digest()[:KEY_BYTES] if alike else one.to_bytes(KEY_BYTES, "big")
        for one in things
    ]
    numbers, first = number_distinct(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES))
    expected = {one: number for number, one in enumerate(dict.fromkeys(things))}
    assert numbers.tolist() == [expected[one] for one in things]
    assert first.tolist() == [things.index(one) for one in expected]
