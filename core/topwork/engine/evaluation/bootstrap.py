"""Intervals by drawing again: rows, and seeds with them where several models stand behind one figure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topwork.errors import PluginError, first_line
from topwork.interfaces.head import MAX_INTERVAL_SECONDS

#: Resamples of an interval.
RESAMPLES = 1000

#: Resamples below which the ends of an interval are not known.
MIN_RESAMPLES = 200


@dataclass(frozen=True)
class Resampled:
    """A figure on resamples of the rows.

    Attributes:
        values: of each seed on each resample, float64; NaN where it could not be measured.
        failed: the number of resamples on which it could not be measured for some seed.
        reason: why not, the first time.
    """

    values: Float[Tensor, "resamples seeds"]
    failed: int
    reason: str

    def interval(self, observed: Float[Tensor, " seeds"], rows: int, *, seed: int) -> tuple[float, float]:
        """Return the 95 % interval as ``interval`` does; NaN where a resample failed or there are too few."""
        if self.failed or len(self.values) < MIN_RESAMPLES:
            return math.nan, math.nan
        return interval(self.values, observed, rows, seed=seed)

    @property
    def note(self) -> str:
        """Say why there is no interval, or on how few resamples it rests; nothing where all is well."""
        done = len(self.values)
        if self.failed:
            return f"no interval, because it failed on {self.failed:,} of {done:,} resamples of the rows: {self.reason}"
        if done == RESAMPLES:
            return ""
        slow = (
            f"only {done:,} of {RESAMPLES:,} resamples of the rows were measured in {MAX_INTERVAL_SECONDS:.0f} seconds"
        )
        return f"no interval, because {slow}" if done < MIN_RESAMPLES else f"a rough interval, because {slow}"


def resample(
    measure: Callable[[Int[Tensor, " N"]], Sequence[float]],
    rows: int,
    *,
    seed: int,
    seconds: float = MAX_INTERVAL_SECONDS,
) -> Resampled:
    """Measure a figure on resamples of the rows, ``RESAMPLES`` times or until the time is over.

    Args:
        measure: maps the numbers of N drawn rows to the figure of each seed; what raises PluginError has failed.
        rows: N.
        seed: of the draws.
        seconds: after these, no further resample is measured.
    """
    started = monotonic()
    values: list[Sequence[float]] = []
    failed, reason = 0, ""
    for drawn in draw_rows(rows, seed=seed):
        try:
            values.append(measure(drawn))
            error = "" if all(map(math.isfinite, values[-1])) else "it gives no finite number"
        except PluginError as raised:
            values.append([math.nan])
            error = first_line(raised)
        failed += bool(error)
        reason = reason or error
        if monotonic() - started > seconds:
            break
    seeds = max(map(len, values))
    filled = [one if len(one) == seeds else [math.nan] * seeds for one in values]
    return Resampled(torch.tensor(filled, dtype=torch.float64), failed, reason)


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
