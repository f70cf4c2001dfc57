"""Measure a model on rows: each task's loss and metrics, with intervals."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from topwork.engine.data_parallel import Processes
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.bootstrap import resample
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import PluginError, first_line
from topwork.interfaces.head import Head, Metric, Reading

#: Rows per batch where nothing is trained.
EVALUATION_BATCH = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """A metric on N rows with its 95 % interval.

    The interval is Wilson's for proportions of one model (Wilson 1927), else a bootstrap over rows. Of one model it
    says what another sample of rows would give, not what another seed would; of several, trained with as many seeds,
    it says both. Where all resamples give the same value, or the metric fails on one, no interval can be estimated,
    and both ends are NaN.

    Attributes:
        value: the metric; of several seeds their mean; NaN where it fails.
        low, high: the ends of the interval.
        rows: N.
        seeds: how many models stand behind it, trained with as many seeds.
        sd: of several seeds, the standard deviation over them (S - 1 degrees of freedom).
        note: why there is no value or no interval, or on how few resamples it rests; mostly empty.
    """

    value: float
    low: float
    high: float
    rows: int
    seeds: int = 1
    sd: float | None = None
    note: str = ""


@torch.no_grad()
def outputs_of(
    model: MultiTaskModel, examples: Examples, *, device: torch.device, processes: Processes | None = None
) -> dict[str, Float[Tensor, "_L ..."]]:
    """Return each task's outputs (L, C) for the L rows that have a label of it, on the CPU; none where no row has.

    The model is left in eval mode.

    Args:
        processes: that compute some batches each, and all get all outputs; this one alone by default.
    """
    model.eval()
    processes = processes or Processes()
    batches: dict[str, list[Tensor]] = {task: [] for task in model.tasks}
    divided = torch.arange(examples.count).split(EVALUATION_BATCH)
    for rows in divided[processes.number :: processes.count]:
        batch = examples.batch(rows)
        for task, outputs in model(batch.hidden.to(device), batch.mask.to(device), batch.inputs, batch.windows).items():
            batches[task].append(outputs.float().cpu())
    if processes.count > 1:
        labelled = [examples.labelled_rows(rows) for rows in divided]
        return {
            task: join_processes(batches[task], [len(one.get(task, ())) for one in labelled], reading, processes)
            for task, reading in model.reads.items()
            if task in model.tasks and any(task in one for one in labelled)
        }
    return {task: join_rows(outputs) for task, outputs in batches.items() if outputs}


def join_processes(
    own: Sequence[Float[Tensor, "_L ..."]], counts: Sequence[int], reading: Reading, processes: Processes
) -> Float[Tensor, "L ..."]:
    """Put rows of batches together that several processes have computed in turn: (L, C), or (L, S, C) of words.

    Args:
        own: the outputs of this process's batches that have rows.
        counts: how many rows each batch has, those of all processes.
    """
    of_each = join_rows(own) if own else torch.zeros(0, 0, 0) if reading == "words" else torch.zeros(0, 0)
    columns = processes.max(torch.tensor(of_each.shape[1:])).tolist()
    joined = torch.zeros(sum(counts), *columns)
    rows = torch.arange(sum(counts)).split(list(counts))[processes.number :: processes.count]
    padding = [
        part for size, wide in zip(of_each.shape[:0:-1], columns[::-1], strict=True) for part in (0, wide - size)
    ]
    joined[torch.cat([*rows, torch.arange(0)])] = nn.functional.pad(of_each, padding)
    return processes.sum(joined)


def join_rows(parts: Sequence[Float[Tensor, "_L ..."]]) -> Float[Tensor, "L ..."]:
    """Put rows of several batches together: (L, C), or (L, S, C) with zeros behind the words of shorter texts."""
    if parts[0].ndim == 2:
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


@torch.no_grad()
def measure(
    tasks: Mapping[str, Head],
    outputs: Mapping[str, Float[Tensor, "_N ..."]],
    targets: Mapping[str, Shaped[Tensor, "_N ..."]],
    *,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return ``<task>/loss`` and ``<task>/<metric>`` for every task with outputs, and why a metric has no value.

    Such a metric is NaN, and what it says is returned by its name.

    Args:
        outputs, targets: on the CPU.
        device: where the losses are computed, the model's.

    Raises:
        PluginError: a loss fails.
    """
    values, failures = {}, {}
    for task, head in ((task, head) for task, head in tasks.items() if task in outputs):
        values[f"{task}/loss"] = float(head.loss(outputs[task].to(device), targets[task].to(device)))
        for metric in head.metrics:
            name = f"{task}/{metric.name}"
            try:
                values[name] = float(metric.total(metric.compute(outputs[task], targets[task])))
            except PluginError as error:
                values[name], failures[name] = math.nan, first_line(error)
    return values, failures


def estimate(
    metric: Metric, outputs: Sequence[Float[Tensor, "N ..."]], targets: Shaped[Tensor, "N ..."], *, seed: int = 0
) -> Estimate:
    """Measure ``metric`` and give its 95 % interval. A failure costs the value or the interval, and is logged.

    Args:
        outputs: of each seed's model on the same rows; one where there is one model.
        targets: of the rows.
        seed: of the bootstrap.
    """
    found = _estimate(metric, outputs, targets, seed=seed)
    if found.note:
        logger.warning("metric %s: %s", metric.name, found.note)
    return found


def _estimate(
    metric: Metric, outputs: Sequence[Float[Tensor, "N ..."]], targets: Shaped[Tensor, "N ..."], *, seed: int
) -> Estimate:
    rows, seeds = len(targets), len(outputs)
    try:
        scores = [metric.compute(one, targets) for one in outputs]
    except PluginError as error:
        return Estimate(math.nan, math.nan, math.nan, rows, seeds, note=first_line(error))
    if seeds == 1 and is_zero_or_one(scores[0]):
        from scipy.stats import binomtest  # takes a second to import

        wilson = binomtest(int(scores[0].sum()), rows).proportion_ci(0.95, method="wilson")
        return Estimate(float(scores[0].mean()), float(wilson.low), float(wilson.high), rows)
    observed = torch.tensor([float(metric.total(one)) for one in scores], dtype=torch.float64)
    value, sd = float(observed.mean()), float(observed.std()) if seeds > 1 else None
    try:
        drawings = [on_rows(metric, of_seed, one, targets) for of_seed, one in zip(scores, outputs, strict=True)]
    except PluginError as error:
        note = f"no interval, because {first_line(error)}"
        return Estimate(value, math.nan, math.nan, rows, seeds, sd, note)
    resampled = resample(lambda drawn: [measure_on(drawn) for measure_on in drawings], rows, seed=seed)
    low, high = resampled.interval(observed)
    low, high = float(max(low, metric.bounds[0])), float(min(high, metric.bounds[1]))
    if low == high:
        low = high = math.nan
    return Estimate(value, low, high, rows, seeds, sd, resampled.note)


def estimates(
    tasks: Mapping[str, Head],
    outputs: Mapping[str, Float[Tensor, "_N ..."]],
    targets: Mapping[str, Shaped[Tensor, "_N ..."]],
) -> dict[str, Estimate]:
    """Return ``<task>/<metric>`` with intervals for every task with outputs, of one model."""
    return {
        f"{task}/{metric.name}": estimate(metric, [outputs[task]], targets[task])
        for task, head in tasks.items()
        if task in outputs
        for metric in head.metrics
    }


def on_rows(
    metric: Metric,
    scores: Float[Tensor, "..."],
    outputs: Float[Tensor, "N ..."],
    targets: Shaped[Tensor, "N ..."],
) -> Callable[[Int[Tensor, " M"]], float]:
    """Return a function that measures a metric on M drawn rows, from its ``scores`` for all rows where it can.

    Raises:
        PluginError: the metric fails.
    """
    rows = len(targets)
    if scores.ndim == 0 and metric.weighted:
        measure = metric.weighted(outputs, targets)
        return lambda drawn: float(measure(torch.bincount(drawn, minlength=rows).float()))
    if scores.ndim == 0:
        return lambda drawn: float(metric.compute(outputs[drawn], targets[drawn]))
    columns = scores.double().reshape(rows, -1)

    def measure_scores(drawn: Tensor) -> float:
        summed = (torch.bincount(drawn, minlength=rows).double() @ columns).to(scores.dtype)
        return float(metric.combine(summed)) if metric.combine else float(summed) / len(drawn)

    return measure_scores


def is_zero_or_one(scores: Tensor) -> bool:
    """Whether a metric gave a score for each row (N,), each 0 or 1."""
    return scores.ndim == 1 and bool(((scores == 0) | (scores == 1)).all())
