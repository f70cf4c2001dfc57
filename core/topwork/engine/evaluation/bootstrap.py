"""Intervals by drawing rows again, and with Student's of the seeds where several models stand behind one figure."""

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

    def interval(self, observed: Float[Tensor, " seeds"]) -> tuple[float, float]:
        """Return the 95 % interval as ``interval`` does; NaN where a resample failed or there are too few."""
        if self.failed or len(self.values) < MIN_RESAMPLES:
            return math.nan, math.nan
        return interval(self.values, observed)

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


def interval(resampled: Float[Tensor, "resamples seeds"], observed: Float[Tensor, " seeds"]) -> tuple[float, float]:
    """Return the 95 % interval of a figure's mean over the seeds.

    With one seed it is the percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13). With several, the
    squares of two distances from the mean are added: to that interval, and to Student's of the seeds with S - 1
    degrees of freedom (MOVER, Zou and Donner 2008). That covers the truth in 95 % of studies where either spread is
    small, and in up to 98 % in between.

    That seeds differ on single rows shows in the spread of the seeds and again in that of the rows. So the latter is
    reduced to what the seeds have in common, as an analysis of variance of two crossed random factors does (Cornfield
    and Tukey 1956). Else the intervals of two equal models would exclude 0 in 1 % of studies instead of 5 %. Two seeds
    often agree by chance: their interval is no narrower than that of the rows.

    Args:
        resampled: the figure of each seed on each resample of the rows.
        observed: the figure of each seed on all rows.
    """
    of_rows, seeds = resampled.mean(dim=1), len(observed)
    low, high = np.quantile(of_rows.numpy(), [0.025, 0.975])
    if seeds == 1:
        return float(low), float(high)
    from scipy.stats import t  # takes a second to import

    centre, in_common = float(observed.mean()), _share_in_common(resampled)
    of_seeds = float(t.ppf(0.975, seeds - 1)) * float(observed.std()) / seeds**0.5
    below, above = (math.hypot(in_common * (end - centre), of_seeds) for end in (low, high))
    if seeds == 2:
        below, above = max(below, centre - low), max(above, high - centre)
    return float(centre - below), float(centre + above)


def _share_in_common(resampled: Float[Tensor, "resamples seeds"]) -> float:
    """Of the standard deviation of the seeds' mean over resamples of the rows, the share that all seeds have: 0 to 1.

    The rest is of single rows that seeds differ on.
    """
    mean, seeds = resampled.mean(dim=1, keepdim=True), resampled.shape[1]
    spread = float(mean.var())
    of_single_rows = float((resampled - mean).var(dim=0).sum()) / (seeds - 1) / seeds
    return max(0.0, 1 - of_single_rows / spread) ** 0.5 if spread > 0 else 1.0
