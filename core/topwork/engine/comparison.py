"""Compare two models on the same rows, so that a difference can be told from chance."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from topwork.engine.evaluation import RESAMPLES, Rows
from topwork.engine.preparation import Prepared
from topwork.errors import StorageError
from topwork.experiment.schema import SplitName
from topwork.interfaces.head import Classes, HeadConfig, Metric


@dataclass(frozen=True)
class Judged:
    """What a model said of the N rows that it was judged on.

    Attributes:
        split: which rows: ``test``, ``validation`` or ``training``.
        texts: sha256 of the N texts, in their order.
        width: of the pooled vectors (W).
        classes: the classes of each task.
        outputs: for each task, (N, C) float32; of several seeds, side by side (N, seeds * C).
        targets: for each task, (N,) int64.
        seeds: how many models, trained with as many seeds, said it.
    """

    split: str
    texts: str
    width: int
    classes: dict[str, Classes]
    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    seeds: int = 1

    def to_bytes(self) -> bytes:
        """Return this as a safetensors file."""
        tensors = {f"outputs/{task}": outputs.contiguous() for task, outputs in self.outputs.items()}
        tensors |= {f"targets/{task}": targets.contiguous() for task, targets in self.targets.items()}
        classes = json.dumps({task: list(classes.names) for task, classes in self.classes.items()})
        described = {"split": self.split, "texts": self.texts, "width": str(self.width), "classes": classes}
        described["seeds"] = str(self.seeds)
        return safetensors.torch.save(tensors, described)

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str) -> "Judged":
        """Read what ``to_bytes`` gave.

        Raises:
            StorageError: it is damaged; ``name`` says what it is.
        """
        try:
            tensors = safetensors.torch.load(content)
            described = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            classes = {task: Classes(tuple(names)) for task, names in json.loads(described["classes"]).items()}
            return cls(
                split=described["split"],
                texts=described["texts"],
                width=int(described["width"]),
                classes=classes,
                outputs={task: tensors[f"outputs/{task}"] for task in classes},
                targets={task: tensors[f"targets/{task}"] for task in classes},
                seeds=int(described["seeds"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as fault:
            raise StorageError(f"{name} is damaged: {fault}; compare other runs, or train that one again") from None


@dataclass(frozen=True)
class Difference:
    """How much greater a metric is for the second of two models.

    Attributes:
        value: second minus first.
        low, high: the 95 % interval, a percentile bootstrap that draws the same rows for both (Efron and
            Tibshirani 1993, chapter 13). Both are equal where no row makes a difference.
        p: of McNemar's exact test (McNemar 1947), the chance of so uneven a count of rows that only one of
            the two gets right, if both were equally good; None for a metric that does not judge row by row.
    """

    value: float
    low: float
    high: float
    p: float | None


def put_together(prepared: Prepared, split: SplitName, outputs: dict[str, Tensor], rows: Rows) -> Judged:
    """Put together what a model said of the rows of a split."""
    return Judged(
        split="training" if split == "train" else split,
        texts=digest_of_texts(prepared.dataset.parts[split].texts),
        width=prepared.model.pooling.width,
        classes=prepared.dataset.labels,
        outputs=outputs,
        targets=rows.targets,
    )


def digest_of_texts(texts: Sequence[str]) -> str:
    """sha256 of texts in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def difference(
    first: tuple[Metric, Tensor], second: tuple[Metric, Tensor], targets: Tensor, *, seed: int = 0
) -> Difference:
    """Compare two models' outputs (N, C) on the same targets (N,), each by its own head's metric of the same name."""
    count = len(targets)
    resamples = torch.from_numpy(np.random.default_rng(seed).integers(count, size=(RESAMPLES, count)))
    scores = [metric.of(outputs, targets) for metric, outputs in (first, second)]
    value = float(scores[1].mean() - scores[0].mean())
    if scores[0].ndim == 1:
        gains = scores[1] - scores[0]
        values = gains[resamples].mean(dim=1).tolist()
    else:
        values = [_resampled(second, targets, rows) - _resampled(first, targets, rows) for rows in resamples]
    low, high = np.quantile(values, [0.025, 0.975])
    return Difference(value, float(low), float(high), _mcnemar(*scores))


def _resampled(one: tuple[Metric, Tensor], targets: Tensor, rows: Tensor) -> float:
    metric, outputs = one
    return float(metric.of(outputs[rows], targets[rows]).mean())


def mean_over_seeds(metric: Metric, seeds: int) -> Metric:
    """Turn a metric of outputs (N, C) into its mean over several seeds' outputs, side by side (N, seeds * C)."""

    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([metric.of(one, targets) for one in outputs.chunk(seeds, dim=1)]).mean(dim=0)

    return metric if seeds == 1 else Metric(metric.name, mean, metric.greater_is_better)


def metrics_of(head: HeadConfig, judged: Judged, task: str) -> dict[str, Metric]:
    """Return what the head of a task measures, by name, for outputs of as many seeds as ``judged`` has."""
    metrics = head.build(judged.width, judged.classes[task]).metrics
    return {metric.name: mean_over_seeds(metric, judged.seeds) for metric in metrics}


def beside(parts: Sequence[Judged]) -> Judged:
    """Join what models that were trained with several seeds said of the same rows."""
    first = parts[0]
    outputs = {task: torch.cat([part.outputs[task] for part in parts], dim=1) for task in first.outputs}
    return replace(first, outputs=outputs, seeds=len(parts))


def _mcnemar(first: Tensor, second: Tensor) -> float | None:
    """The p of McNemar's exact test for scores (N,) of 0 and 1; None for others."""
    judged = [scores.ndim == 1 and bool(((scores == 0) | (scores == 1)).all()) for scores in (first, second)]
    if not all(judged):
        return None
    won, lost = int((second > first).sum()), int((first > second).sum())
    if won + lost == 0:
        return 1.0
    from scipy.stats import binomtest  # takes a second to import

    return float(binomtest(won, won + lost, 0.5).pvalue)


def why_not_comparable(first: Judged, second: Judged) -> str:
    """Say why two models cannot be compared row by row; nothing where they can."""
    if first.split != second.split:
        return f"one was judged on {first.split} rows, the other on {second.split} rows"
    if first.seeds != second.seeds:
        return f"one is the mean over {first.seeds} seeds, the other over {second.seeds}"
    if first.texts != second.texts:
        return f"their {first.split} rows differ"
    common = first.classes.keys() & second.classes.keys()
    if not common:
        return f"they have no task in common: {', '.join(first.classes)} and {', '.join(second.classes)}"
    for task in sorted(common):
        if first.classes[task] != second.classes[task] or not torch.equal(first.targets[task], second.targets[task]):
            return f"the labels of task {task} differ"
    return ""


def differing(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Return what differs between several mappings, by key; None where one lacks it."""
    names = dict.fromkeys(name for one in settings for name in one)
    table = {name: [one.get(name) for one in settings] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}
