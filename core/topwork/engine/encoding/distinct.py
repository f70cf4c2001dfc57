"""Bring equal things together by their digests, without an object for each."""

import numpy as np
from numpy.typing import NDArray

from topwork.mapped import zeros

#: Bytes of a digest by which two things are told apart: of a million, two are taken for one once in 10^26.
KEY_BYTES = 16


def number_distinct(keys: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number things by their keys, equal ones alike, in the order in which they first come.

    Args:
        keys: (N, 16) uint8.

    Returns:
        The number of each, (N,), from 0 to U - 1; and the place of the first of each number, (U,).
    """
    count = len(keys)
    high, low = np.ascontiguousarray(keys).view(np.uint64).T
    order, in_order = zeros(count, np.int64), zeros(count, np.uint64)
    order[:] = np.lexsort((low, high))  # stable: of equal ones the first comes first
    begins = np.zeros(count, np.bool_)
    begins[:1] = True
    for half in (high, low):
        np.take(half, order, out=in_order, mode="clip")  # the mode in which nothing is copied twice
        begins[1:] |= in_order[1:] != in_order[:-1]
    # the place of the first of those that are equal, at all of their places
    first_of_each = zeros(count, np.int64)
    first_of_each[order] = order[begins][np.cumsum(begins) - 1]
    is_first = first_of_each == np.arange(count)
    numbers = zeros(count, np.int64)
    np.cumsum(is_first, out=numbers)
    numbers -= 1  # of those that are first
    first = zeros(int(is_first.sum()), np.int64)
    first[:] = np.flatnonzero(is_first)
    return np.take(numbers, first_of_each, out=order, mode="clip"), first
