"""Compare two models on the same rows, so that a difference can be distinguished from chance."""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.data.texts import Text, Words, parts_of
from topwork.engine.evaluation.bootstrap import resample
from topwork.engine.evaluation.estimates import is_zero_or_one, on_rows
from topwork.engine.label_record import LabelRecord, record_of
from topwork.engine.model.building import build_head
from topwork.errors import PluginError, StorageError, first_line
from topwork.interfaces.head import HeadConfig, Metric
from topwork.interfaces.labels import Classes, LabelSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitOutputs:
    """The outputs of a model for the rows of one split that have labels: N of a task.

    Attributes:
        split: which rows: ``test``, ``validation`` or ``training``.
        texts_sha256: for each task, of its texts, in their order.
        width: of the pooled vectors (W).
        labels: the label space of each task.
        outputs: for each task, (N, C) float32, or (N, S, C) of words; of several seeds, side by side, such as
            (N, seeds * C).
        targets: for each task, (N, ...) as its label space says.
        seeds: how many models, trained with as many seeds, the outputs are of.
    """

    split: str
    texts_sha256: dict[str, str]
    width: int
    labels: dict[str, LabelSpace]
    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    seeds: int = 1

    def by_seed(self, task: str) -> tuple[Float[Tensor, "N ..."], ...]:
        """Return a task's outputs (N, C) of each seed's model."""
        return self.outputs[task].chunk(self.seeds, dim=-1)

    def to_bytes(self) -> bytes:
        """Return this as a safetensors file."""
        tensors = {f"outputs/{task}": outputs.contiguous() for task, outputs in self.outputs.items()}
        tensors |= {f"targets/{task}": targets.contiguous() for task, targets in self.targets.items()}
        described = {
            "split": self.split,
            "texts": json.dumps(self.texts_sha256),
            "width": str(self.width),
            "labels": json.dumps({task: record_of(space) for task, space in self.labels.items()}),
        }
        described["seeds"] = str(self.seeds)
        return safetensors.torch.save(tensors, described)

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str) -> "SplitOutputs":
        """Read what ``to_bytes`` gave.

        Raises:
            StorageError: it is damaged; ``name`` says what it is.
        """
        try:
            tensors = safetensors.torch.load(content)
            described = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            labels = _labels_of(described)
            return cls(
                split=described["split"],
                texts_sha256=_digests_by_task(described["texts"], labels),
                width=int(described["width"]),
                labels=labels,
                outputs={task: tensors[f"outputs/{task}"] for task in labels},
                targets={task: tensors[f"targets/{task}"] for task in labels},
                seeds=int(described["seeds"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"{name} is damaged: {error}; compare other runs, or train that one again") from None


@dataclass(frozen=True)
class Difference:
    """How much greater a metric is for the second of two models, or of two means over as many seeds.

    Attributes:
        value: second minus first.
        low, high: the 95 % interval, a bootstrap that draws the same rows for both, joined with Student's t over the
            seeds where there are several; see ``interval``. Both are equal where no row makes a difference, and NaN
            where a metric fails.
        p_value: of McNemar's exact test (McNemar 1947), the chance of so uneven a count of rows that only one of
            the two gets right, if both were equally good; None for several seeds, and for a metric that does not score
            each row as right or wrong.
        seeds: how many models stand behind each side.
    """

    value: float
    low: float
    high: float
    p_value: float | None
    seeds: int = 1


def difference(
    first: tuple[Metric, Sequence[Float[Tensor, "N ..."]]],
    second: tuple[Metric, Sequence[Float[Tensor, "N ..."]]],
    targets: Shaped[Tensor, "N ..."],
    *,
    seed: int = 0,
) -> Difference:
    """Compare two models on the same rows, each by its own head's metric of the same name.

    Args:
        first, second: the metric, and the outputs of each seed's model; as many seeds on both sides.
        targets: of the rows.
        seed: of the bootstrap.
    """
    rows, seeds = len(targets), len(first[1])
    pairs = list(zip(first[1], second[1], strict=True))
    try:
        scores = [(first[0].compute(one, targets), second[0].compute(other, targets)) for one, other in pairs]
        drawings = [
            (on_rows(first[0], before, one, targets), on_rows(second[0], after, other, targets))
            for (before, after), (one, other) in zip(scores, pairs, strict=True)
        ]
    except PluginError as error:
        logger.warning("no difference in metric %s: %s", second[0].name, first_line(error))
        return Difference(math.nan, math.nan, math.nan, None, seeds)
    at = torch.tensor(
        [float(second[0].total(after) - first[0].total(before)) for before, after in scores], dtype=torch.float64
    )
    resampled = resample(lambda drawn: [after(drawn) - before(drawn) for before, after in drawings], rows, seed=seed)
    low, high = resampled.interval(at)
    if resampled.note:
        logger.warning("difference in metric %s: %s", second[0].name, resampled.note)
    p = _mcnemar(*scores[0]) if seeds == 1 else None
    return Difference(float(at.mean()), low, high, p, seeds)


def metrics_of(head: HeadConfig, outputs: SplitOutputs, task: str) -> dict[str, Metric]:
    """Return what the head of a task measures, by name.

    Raises:
        PluginError: the head cannot be built.
    """
    built = build_head(head, outputs.width, outputs.labels[task], where=f"tasks.{task}.head")
    return {metric.name: metric for metric in built.metrics}


def stack_seeds(outputs: Sequence[SplitOutputs]) -> SplitOutputs:
    """Put the outputs of models that were trained with several seeds, for the same rows, into one."""
    first = outputs[0]
    stacked = {task: torch.cat([one.outputs[task] for one in outputs], dim=-1) for task in first.outputs}
    return replace(first, outputs=stacked, seeds=len(outputs))


def digests_of_texts(rows: DataSplit) -> dict[str, str]:
    """For each task, the sha256 of the texts that have a label of it, in their order."""
    return {task: digest_of_texts(rows.texts_of(task)) for task in rows.targets}


def _labels_of(described: Mapping[str, str]) -> dict[str, LabelSpace]:
    """Read the label space of each task. Earlier versions knew classes alone, and wrote their names."""
    if "classes" in described:
        return {task: Classes(tuple(names)) for task, names in json.loads(described["classes"]).items()}
    records = json.loads(described["labels"])
    return {task: LabelRecord.model_validate_json(json.dumps(record)).restore() for task, record in records.items()}


def _digests_by_task(written: str, tasks: Iterable[str]) -> dict[str, str]:
    """Read the digest of each task's texts. Earlier versions wrote one, since all rows had labels of all tasks."""
    return json.loads(written) if written.startswith("{") else dict.fromkeys(tasks, written)


#: What tells a text, a pair and words of equal parts apart.
_KINDS: dict[type, bytes] = {str: b"", tuple: b"pair", Words: b"words"}


def digest_of_texts(texts: Iterable[Text]) -> str:
    """sha256 of texts, or pairs of them, in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for text in texts:
        for content in (part.encode() for part in parts_of(text)):
            digest.update(len(content).to_bytes(8, "little") + content)
        digest.update(_KINDS[type(text)])
    return digest.hexdigest()


def _mcnemar(first: Tensor, second: Tensor) -> float | None:
    """The p of McNemar's exact test for scores (N,) of 0 and 1; None for others."""
    if not (is_zero_or_one(first) and is_zero_or_one(second)):
        return None
    won, lost = int((second > first).sum()), int((first > second).sum())
    if won + lost == 0:
        return 1.0
    from scipy.stats import binomtest  # takes a second to import

    return float(binomtest(won, won + lost, 0.5).pvalue)


def why_not_comparable(first: SplitOutputs, second: SplitOutputs) -> str:
    """Say why two models cannot be compared row by row; nothing where they can."""
    if first.split != second.split:
        return f"one was evaluated on {first.split} rows, the other on {second.split} rows"
    if first.seeds != second.seeds:
        return f"one is the mean over {first.seeds} seeds, the other over {second.seeds}"
    common = first.labels.keys() & second.labels.keys()
    if not common:
        return f"they have no task in common: {', '.join(first.labels)} and {', '.join(second.labels)}"
    differing_rows = [task for task in sorted(common) if first.texts_sha256[task] != second.texts_sha256[task]]
    if differing_rows:
        return f"their {first.split} rows differ" + (
            "" if len(differing_rows) == len(common) else f" for task {', '.join(differing_rows)}"
        )
    for task in sorted(common):
        if first.labels[task] != second.labels[task] or not torch.equal(first.targets[task], second.targets[task]):
            return f"the labels of task {task} differ"
    return ""


def differing(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Return what differs between several mappings, by key; None where one lacks it."""
    names = dict.fromkeys(name for one in settings for name in one)
    table = {name: [one.get(name) for one in settings] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}
