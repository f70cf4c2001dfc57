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
                topwork.Metric("micro_f1", micro_f1),
                topwork.Metric("macro_f1", macro_f1),
                topwork.Metric("average_precision", average_precision),
                topwork.Metric("exact_match", lambda outputs, targets: ((outputs > 0) == (targets > 0)).all(1).float()),
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

    It is scikit-learn's ``average_precision_score(average="macro")``, computed for all labels at once: an interval asks
    for it 1,000 times.
    """
    scores, order = outputs.sort(dim=0, descending=True)
    true = (targets > 0).gather(0, order)
    rank = torch.arange(1, len(scores) + 1)[:, None]
    precision = true.cumsum(dim=0) / rank  # (N, C)
    ends = torch.cat([scores[:-1] != scores[1:], torch.ones(1, scores.shape[1], dtype=torch.bool)])
    last = len(scores) - 1
    end = torch.where(ends, rank - 1, last).flip(0).cummin(dim=0).values.flip(0)  # of the texts with an equal score
    seen = true.any(dim=0)
    areas = (precision.gather(0, end) * true).sum(dim=0)[seen] / true.sum(dim=0)[seen]
    return areas.mean()


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(MultilabelConfig)
