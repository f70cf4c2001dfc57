"""Divide rows into train, validation and test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.errors import DataError
from topwork.experiment.source import SPLITS, Split, SplitName


def divide(
    count: int, split: Split, strata: Sequence[str] | NDArray[Any] | None = None
) -> dict[SplitName, NDArray[np.int64]]:
    """Return the row numbers of each split that is not empty by design, each in ascending order.

    Args:
        count: how many rows there are.
        split: fractions and method. Sizes are rounded down for validation and test; train takes the rest.
        strata: the value of each row whose proportions a stratified split keeps.

    Raises:
        DataError: a split would be empty.
    """
    fractions: dict[SplitName, float] = {"validation": split.validation, "test": split.test}
    sizes = {name: int(count * fraction + 1e-9) for name, fraction in fractions.items()}  # 0.29 * 100 is under 29
    for name, fraction in fractions.items():
        if fraction and not sizes[name]:
            raise DataError(
                f"{fraction:g} of {count} rows leaves the {name} split empty; raise the fraction or the limit"
            )
    train = count - sum(sizes.values())
    order = _order(count, split, strata)
    parts = zip(SPLITS, np.split(order, [train, train + sizes["validation"]]), strict=True)
    return {name: np.sort(part) for name, part in parts if len(part)}


def _order(count: int, split: Split, strata: Sequence[str] | NDArray[Any] | None) -> NDArray[np.int64]:
    """The order in which the splits take rows."""
    if split.method == "in_order":
        return np.arange(count)
    shuffled = np.random.default_rng(split.seed).permutation(count)
    if split.method == "random":
        return shuffled
    # Spread the rows of each stratum evenly over [0, 1); any cut then divides every stratum alike.
    assert strata is not None
    values = np.asarray(strata)[shuffled]
    by_stratum = values.argsort(kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], values[by_stratum[1:]] != values[by_stratum[:-1]]]))
    sizes = np.diff(np.append(begins, count))
    position = np.empty(count)
    position[by_stratum] = (np.arange(count) - np.repeat(begins, sizes) + 0.5) / np.repeat(sizes, sizes)
    return shuffled[np.argsort(position, kind="stable")]
