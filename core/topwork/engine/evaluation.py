"""Measure a model on rows: each task's loss and metrics, with intervals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from topwork.engine.encoding import Activations
from topwork.engine.model import MultiTaskModel
from topwork.interfaces.head import Head, Metric

#: Rows per batch where nothing is trained.
EVALUATION_BATCH = 64

#: Resamples of a bootstrap interval.
RESAMPLES = 1000


@dataclass(frozen=True)
class Rows:
    """N rows of one split, ready to train on.

    Attributes:
        activations: what the cut keeps of each text.
        targets: for each task, (N,).
        count: N.
    """

    activations: Activations
    targets: dict[str, Tensor]
    count: int


@dataclass(frozen=True)
class Estimate:
    """A metric on N rows with its 95 % interval.

    The interval is Wilson's for proportions (Wilson 1927), else the percentile bootstrap over rows. It says
    what another sample of rows would give, not what another seed would. Where all resamples agree, the rows
    say nothing about it, and both ends are NaN.
    """

    value: float
    low: float
    high: float
    rows: int


@torch.no_grad()
def outputs_of(model: MultiTaskModel, rows: Rows, *, device: torch.device) -> dict[str, Tensor]:
    """Return each task's outputs (N, C), on the CPU, with the model in eval mode."""
    model.eval()
    parts: dict[str, list[Tensor]] = {name: [] for name in model.tasks}
    for batch in torch.arange(rows.count).split(EVALUATION_BATCH):
        hidden, mask = rows.activations.batch(batch)
        for name, outputs in model(hidden.to(device), mask.to(device)).items():
            parts[name].append(outputs.float().cpu())
    return {name: torch.cat(outputs) for name, outputs in parts.items()}


def measure(
    tasks: Mapping[str, Head], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return ``<task>/loss`` and ``<task>/<metric>`` for every task."""
    figures = {}
    for name, head in tasks.items():
        figures[f"{name}/loss"] = float(head.loss(outputs[name], targets[name]))
        for metric in head.metrics:
            figures[f"{name}/{metric.name}"] = float(metric.of(outputs[name], targets[name]).mean())
    return figures


def estimate(metric: Metric, outputs: Tensor, targets: Tensor, *, seed: int = 0) -> Estimate:
    """Measure ``metric`` on outputs (N, C) and targets (N,) and give its 95 % interval."""
    count = len(targets)
    scores = metric.of(outputs, targets)
    value = float(scores.mean())
    if scores.ndim == 1 and bool(((scores == 0) | (scores == 1)).all()):
        from scipy.stats import binomtest  # takes a second to import

        interval = binomtest(int(scores.sum()), count).proportion_ci(0.95, method="wilson")
        return Estimate(value, float(interval.low), float(interval.high), count)
    resamples = torch.from_numpy(np.random.default_rng(seed).integers(count, size=(RESAMPLES, count)))
    values = [float(metric.of(outputs[rows], targets[rows]).mean()) for rows in resamples]
    low, high = np.quantile(values, [0.025, 0.975])
    if low == high:
        low = high = math.nan
    return Estimate(value, float(low), float(high), count)


def estimates(
    tasks: Mapping[str, Head], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> dict[str, Estimate]:
    """Return ``<task>/<metric>`` with intervals for every task."""
    return {
        f"{name}/{metric.name}": estimate(metric, outputs[name], targets[name])
        for name, head in tasks.items()
        for metric in head.metrics
    }
