"""Divide rows into train, validation and test."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topwork.errors import DataError
from topwork.experiment.schema import Split, SplitName


def divide(count: int, split: Split, strata: Sequence[str] | None = None) -> dict[SplitName, NDArray[np.int64]]:
    """Return the row numbers of each split that is not empty by design, each in ascending order.

    Args:
        count: how many rows there are.
        split: fractions and method. Sizes are rounded down for validation and test; train takes the rest.
        strata: the value of each row whose proportions a stratified split keeps.

    Raises:
        DataError: a split would be empty.
    """
    sizes: dict[SplitName, int] = {
        "train": 0,
        "validation": int(count * split.validation),
        "test": int(count * split.test),
    }
    sizes["train"] = count - sum(sizes.values())
    for name, fraction in (("validation", split.validation), ("test", split.test)):
        if fraction and not sizes[name]:  # type: ignore[index]  # mypy widens the names of the tuple to str
            raise DataError(
                f"{fraction:g} of {count} rows leaves the {name} split empty; raise the fraction or the limit"
            )
    order = _order(count, split, strata)
    ends = np.cumsum([sizes["train"], sizes["validation"]])
    parts = zip(sizes, np.split(order, ends), strict=True)
    return {name: np.sort(part) for name, part in parts if len(part)}


def _order(count: int, split: Split, strata: Sequence[str] | None) -> NDArray[np.int64]:
    """The order in which the splits take rows."""
    if split.method == "in_order":
        return np.arange(count)
    shuffled = np.random.default_rng(split.seed).permutation(count)
    if split.method == "random":
        return shuffled
    # Spread the rows of each stratum evenly over [0, 1); any cut then divides every stratum alike.
    assert strata is not None
    values = np.asarray(strata)[shuffled]
    position = np.empty(count)
    for value in np.unique(values):
        members = np.flatnonzero(values == value)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(position, kind="stable")]
