"""One of several ordered classes: CORN (Shi, Cao, Raschka 2021), a chain of questions whether the class is higher."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork


class OrdinalConfig(topwork.HeadConfig):
    """Settings of the head ``ordinal``, for classes that ``labels.order`` orders, or that are whole numbers.

    Output k of C - 1 is the logit of "higher than class k", learnt from the texts that are at least of class k.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
    """

    kind: Literal["ordinal"] = "ordinal"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        if not labels.ordered:
            raise ValueError(
                f"an ordinal head needs ordered classes, and {', '.join(labels.names[:6])} have no order; "
                "set labels.order of the task, from the lowest to the highest"
            )
        steps = len(labels.names) - 1

        def decode(outputs: Tensor) -> topwork.Decoded:
            names = [labels.names[number] for number in predict_rank(outputs)]
            return topwork.Decoded(names, class_probabilities(outputs))

        return topwork.Head(
            module=topwork.mlp(width, steps, hidden=self.hidden, activation=self.activation, dropout=self.dropout),
            loss=corn_loss,
            decode=decode,
            metrics=[
                topwork.Metric("quadratic_kappa", _quadratic_kappa, bounds=(-1, 1)),
                topwork.Metric("mae", _distance, greater_is_better=False, bounds=(0, math.inf)),
                topwork.Metric(
                    "accuracy", lambda outputs, targets: (predict_rank(outputs) == targets).float(), bounds=(0, 1)
                ),
            ],
            figures=[topwork.confusion_figure(predict_rank)],
            denominator=lambda targets: _asked(targets, steps).sum().float(),
        )


def corn_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of the questions that are asked of the texts (B, C - 1), shape ()."""
    asked = _asked(targets, outputs.shape[1])
    higher = (targets[:, None] > torch.arange(outputs.shape[1], device=targets.device)).to(outputs)
    losses = nn.functional.binary_cross_entropy_with_logits(outputs, higher, reduction="none")
    return (losses * asked).sum() / asked.sum()


def predict_rank(outputs: Tensor) -> Tensor:
    """Return the number of the class, (N,): how many classes the text is more likely higher than not."""
    return (outputs.sigmoid().cumprod(dim=1) > 0.5).sum(dim=1)


def class_probabilities(outputs: Tensor) -> Tensor:
    """Return the probability of each class, (N, C), from the logits (N, C - 1) of the questions."""
    higher = outputs.sigmoid().cumprod(dim=1)
    ones, zeros = torch.ones(len(outputs), 1), torch.zeros(len(outputs), 1)
    return torch.cat([ones, higher], dim=1) - torch.cat([higher, zeros], dim=1)


def _asked(targets: Tensor, steps: int) -> Tensor:
    """Which questions are asked of each text, (B, C - 1): whether it is higher than k, if it is at least k."""
    return targets[:, None] >= torch.arange(steps, device=targets.device)


def _distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many classes lie between prediction and target, (N,)."""
    return (predict_rank(outputs) - targets).abs().float()


def _quadratic_kappa(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cohen's kappa with squared distances as weights (Cohen 1968), shape (); NaN where all are of one class."""
    rank = predict_rank(outputs)
    disagreement = (rank - targets).square().double().mean()
    classes, counts = targets.unique(return_counts=True)
    by_chance = (rank[:, None] - classes).square().double() @ (counts.double() / len(targets))  # (N,)
    kappa: Tensor = 1 - disagreement / by_chance.mean()
    return kappa.float()


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(OrdinalConfig)
