"""Intervals by drawing again: rows, and seeds with them where several models stand behind one figure."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Resamples of an interval.
RESAMPLES = 1000


def draw_rows(rows: int, *, seed: int) -> Int[Tensor, "resamples N"]:
    """Draw N of N rows with replacement, ``RESAMPLES`` times over."""
    return torch.from_numpy(np.random.default_rng(seed).integers(rows, size=(RESAMPLES, rows)))


def interval(
    resampled: Float[Tensor, "resamples seeds"], observed: Float[Tensor, " seeds"], rows: int, *, seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of a figure's mean over the seeds.

    With one seed it is the percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13). With several, seeds
    are drawn together with rows: to each resample of the rows, the mean deviation of as many drawn seeds is added. Of
    few seeds the spread is underestimated, so their deviations are enlarged by sqrt(S / (S - 1)), and the interval by
    Student's t over the normal quantile, with the degrees of freedom that rows and seeds have together (Satterthwaite
    1946).

    Args:
        resampled: the figure of each seed on each resample of the rows.
        observed: the figure of each seed on all rows.
        rows: how many there are.
        seed: of the draws of seeds.
    """
    values = resampled.mean(dim=1).numpy()
    seeds = len(observed)
    widened = 1.0
    if seeds > 1:
        from scipy.stats import norm, t  # takes a second to import

        drawn = np.random.default_rng([seed, seeds]).integers(seeds, size=(len(values), seeds))
        deviations = (observed - observed.mean()).numpy()[drawn].mean(axis=1) * (seeds / (seeds - 1)) ** 0.5
        of_rows, of_seeds = float(values.var()), float(deviations.var())
        if of_rows + of_seeds > 0:
            freedom = (of_rows + of_seeds) ** 2 / (of_seeds**2 / (seeds - 1) + of_rows**2 / max(1, rows - 1))
            widened = float(t.ppf(0.975, freedom) / norm.ppf(0.975))
        values = values + deviations
    low, high = np.quantile(values, [0.025, 0.975])
    centre = float(observed.mean()) if seeds > 1 else 0.0
    return float(centre + widened * (low - centre)), float(centre + widened * (high - centre))
