"""Any number of many labels: a perceptron with an output for each label, sigmoid, and binary cross-entropy."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork

Probability = Annotated[float, Field(strict=True, gt=0, lt=1)]


class MultilabelConfig(topwork.HeadConfig):
    """Settings of the head ``multilabel``. A text has the labels whose output is above 0.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
        threshold: the probability above which a text has a label: ``tuned`` takes for each label the one with the best
            F1 on the validation rows, after training; without validation rows, and for labels that none of them has, it
            is 0.5. A number is that for all labels.
    """

    kind: Literal["multilabel"] = "multilabel"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)
    threshold: Literal["tuned"] | Probability = "tuned"

    label_spaces: ClassVar = (topwork.LabelSet,)

    def build(self, width: int, labels: topwork.LabelSet) -> topwork.Head:
        count = len(labels.names)
        threshold = 0.5 if self.threshold == "tuned" else self.threshold
        perceptron = topwork.mlp(width, count, hidden=self.hidden, activation=self.activation, dropout=self.dropout)
        module = Thresholds(perceptron, torch.full((count,), threshold).logit())

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            logits = outputs + module.threshold.to(outputs)
            return nn.functional.binary_cross_entropy_with_logits(logits, targets)

        def decode(outputs: Tensor) -> topwork.Decoded:
            sets = [tuple(labels.names[number] for number in row.nonzero()[:, 0]) for row in outputs > 0]
            return topwork.Decoded(sets, (outputs + module.threshold.to(outputs)).sigmoid())

        def tune(outputs: Tensor, targets: Tensor) -> None:
            module.threshold += best_thresholds(outputs, targets).to(module.threshold)

        return topwork.Head(
            module=module,
            loss=loss,
            decode=decode,
            metrics=[
                topwork.Metric("micro_f1", micro_f1, bounds=(0, 1)),
                topwork.Metric("macro_f1", macro_f1, bounds=(0, 1)),
                topwork.Metric(
                    "average_precision", average_precision, weighted=weighted_average_precision, bounds=(0, 1)
                ),
                topwork.Metric(
                    "exact_match",
                    lambda outputs, targets: ((outputs > 0) == (targets > 0)).all(1).float(),
                    bounds=(0, 1),
                ),
            ],
            figures=[topwork.per_label_figure(lambda outputs: outputs > 0)],
            tune=tune if self.threshold == "tuned" else None,
        )


class Thresholds(nn.Module):
    """Takes the logit of each label's threshold (C,) from its logits (B, C), so that 0 divides yes from no."""

    threshold: Tensor

    def __init__(self, perceptron: nn.Module, threshold: Tensor) -> None:
        super().__init__()
        self.perceptron = perceptron
        self.register_buffer("threshold", threshold)

    def forward(self, pooled: Tensor) -> Tensor:
        outputs: Tensor = self.perceptron(pooled) - self.threshold
        return outputs


def best_thresholds(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each label the output (C,) that divides yes from no with the best F1, half-way between two texts'.

    It is 0 for a label that no text has. Of equally good ones it is the nearest to 0.
    """
    best = torch.zeros(outputs.shape[1])
    for label in (targets > 0).any(dim=0).nonzero()[:, 0]:
        scores, order = outputs[:, label].sort(descending=True)
        hits = targets[order, label].cumsum(dim=0)
        taken = torch.arange(1, len(scores) + 1)
        f1 = 2 * hits / (taken + hits[-1])
        f1[:-1][scores[:-1] == scores[1:]] = -1.0  # equal scores cannot be divided
        ends = torch.cat([scores[1:], scores[-1:] - 1.0])
        between = (scores + ends) / 2
        equally_good = (f1 >= f1.max() - 1e-6).nonzero()[:, 0]
        best[label] = between[equally_good[between[equally_good].abs().argmin()]]
    return best


def micro_f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the F1 of all decisions together, shape (); NaN where no label is predicted nor true."""
    predicted, true = outputs > 0, targets > 0
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def macro_f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean F1 of the labels that are predicted or true for some text, shape ()."""
    predicted, true = outputs > 0, targets > 0
    occurrences = predicted.sum(0) + true.sum(0)
    seen = occurrences > 0
    return (2 * (predicted & true).sum(0)[seen] / occurrences[seen]).mean()


def average_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over labels of the area under precision and recall, shape (); of labels that some text has.

    It is scikit-learn's ``average_precision_score(average="macro")``.
    """
    return weighted_average_precision(outputs, targets)(torch.ones(len(targets)))


def weighted_average_precision(outputs: Tensor, targets: Tensor) -> topwork.WeightedMetric:
    """Return what gives the average precision where each text counts so many times."""
    scores, order = outputs.T.sort(dim=1, descending=True)  # (C, N)
    true = (targets.T > 0).gather(1, order)
    texts = scores.shape[1]
    ends = torch.cat([scores[:, :-1] != scores[:, 1:], torch.ones(len(scores), 1, dtype=torch.bool)], dim=1)
    end = torch.where(ends, torch.arange(texts), texts - 1).flip(1).cummin(dim=1).values.flip(1)  # of an equal score
    label, rank = true.nonzero(as_tuple=True)  # of each true label of a text
    text, end = order[label, rank], end[label, rank]

    def measure(counts: Tensor) -> Tensor:
        ranked = counts[order]
        found, retrieved = (ranked * true).cumsum(dim=1), ranked.cumsum(dim=1)
        precision = found[label, end] / retrieved[label, end].clamp(min=1)
        areas = torch.zeros(len(true)).index_add(0, label, precision * counts[text])
        seen = found[:, -1] > 0
        return (areas[seen] / found[seen, -1]).mean()

    return measure


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(MultilabelConfig)
