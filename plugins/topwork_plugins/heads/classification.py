"""One class out of several, or shares of them: a perceptron, softmax, and cross-entropy on the logits."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import topwork

Weight = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class ClassificationConfig(topwork.HeadConfig):
    """Settings of the head ``classification``.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
        class_weights: how much a text of each class counts in the loss: ``balanced`` weighs classes by the inverse of
            their number of training rows (N / (classes * rows of the class), as scikit-learn does), a mapping names
            the weight of every class. Not for shares of classes.
        label_smoothing: the share of each target that is spread evenly over all classes.
    """

    kind: Literal["classification"] = "classification"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)
    class_weights: Literal["balanced"] | dict[str, Weight] | None = None
    label_smoothing: float = Field(default=0.0, strict=True, ge=0, lt=1)

    label_spaces: ClassVar = (topwork.Classes, topwork.Distribution)

    def build(self, width: int, labels: topwork.Classes | topwork.Distribution) -> topwork.Head:
        classes, soft = len(labels.names), isinstance(labels, topwork.Distribution)
        weights = self._weights(labels)

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            weight = None if weights is None else weights.to(outputs)
            return nn.functional.cross_entropy(outputs, targets, weight, label_smoothing=self.label_smoothing)

        def denominator(targets: Tensor) -> Tensor:
            assert weights is not None
            return weights.to(targets.device)[targets].sum()

        return topwork.Head(
            module=topwork.mlp(width, classes, hidden=self.hidden, activation=self.activation, dropout=self.dropout),
            loss=loss,
            decode=topwork.decode_logits(labels),
            metrics=_soft_metrics(classes) if soft else topwork.class_metrics(classes),
            figures=[] if soft else [topwork.confusion_figure(), topwork.per_class_figure()],
            denominator=None if weights is None else denominator,
        )

    def _weights(self, labels: topwork.Classes | topwork.Distribution) -> Tensor | None:
        """Return the weight of each class, (C,); None where all are 1."""
        if self.class_weights is None:
            return None
        if isinstance(labels, topwork.Distribution):
            raise ValueError("class_weights are for rows of one class each, and these are shares of classes")
        if self.class_weights == "balanced":
            if empty := [name for name, count in zip(labels.names, labels.counts, strict=True) if not count]:
                raise ValueError(f"class_weights: balanced needs training rows of every class; none is {empty[0]}")
            counts = torch.tensor(labels.counts, dtype=torch.float32)
            return counts.sum() / (len(counts) * counts)
        if self.class_weights.keys() != set(labels.names):
            odd = sorted(self.class_weights.keys() ^ set(labels.names))
            raise ValueError(f"class_weights must name every class ({', '.join(labels.names)}); see {', '.join(odd)}")
        return torch.tensor([self.class_weights[name] for name in labels.names])


def _soft_metrics(classes: int) -> list[topwork.Metric]:
    """Measure the class of the largest share, and how far the shares are from those predicted."""
    of_largest_share = [_of_largest_share(metric) for metric in topwork.class_metrics(classes)]
    return [
        *of_largest_share,
        topwork.Metric("cross_entropy", _cross_entropies, greater_is_better=False, bounds=(0, math.inf)),
    ]


def _of_largest_share(metric: topwork.Metric) -> topwork.Metric:
    return topwork.Metric(
        metric.name, lambda outputs, shares: metric.compute(outputs, shares.argmax(dim=1)), bounds=metric.bounds
    )


def _cross_entropies(outputs: Tensor, shares: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, shares, reduction="none")  # (N,)


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(ClassificationConfig)
