"""What plugins are commonly built from; their authors are welcome to it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from topwork.interfaces.head import Classes, Decoded, HeadFigure, Metric

if TYPE_CHECKING:  # matplotlib is imported where something is drawn
    from matplotlib.figure import Figure

#: Maps outputs (N, C) to the number of the predicted class, (N,).
PredictClass = Callable[[Float[Tensor, "N C"]], Int[Tensor, " N"]]

#: Rows below which matrix kernels differ by 3e-6 from one number of rows to the next (torch 2.13, CPU).
MIN_ROWS = 64

Activation = Literal["relu", "gelu", "tanh"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def mlp(
    width: int, outputs: int, *, hidden: Sequence[int], activation: Activation = "relu", dropout: float = 0.0
) -> nn.Sequential:
    """Build a multilayer perceptron from (B, width) to (B, outputs).

    Args:
        hidden: columns of each hidden layer; may be empty.
        activation: follows each hidden layer.
        dropout: probability in [0, 1), after each activation; 0 adds no module.
    """
    layers: list[nn.Module] = []
    for columns in hidden:
        layers += [nn.Linear(width, columns), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = columns
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def rowwise(
    step: Callable[[Shaped[Tensor, "rows ..."]], Shaped[Tensor, "rows ..."]], rows: Shaped[Tensor, "B ..."]
) -> Shaped[Tensor, "B ..."]:
    """Apply a step that treats each of B rows alone, so that a row's result does not depend on how many there are.

    Where ``rows`` (B, ...) are fewer than ``MIN_ROWS``, the first is repeated; its copies are dropped from the result.
    """
    missing = MIN_ROWS - len(rows)
    if missing <= 0:
        return step(rows.contiguous())  # another memory layout would be another kernel
    return step(torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]))[: len(rows)]


def argmax_class(outputs: Float[Tensor, "N C"]) -> Int[Tensor, " N"]:
    """Return the number of the class with the largest output, int64."""
    return outputs.argmax(dim=1)


def decode_logits(labels: Classes) -> Callable[[Tensor], Decoded]:
    """Return a ``Head.decode`` for outputs (N, C) that are the logits of the classes."""

    def decode(outputs: Tensor) -> Decoded:
        return Decoded([labels.names[number] for number in argmax_class(outputs)], outputs.softmax(dim=1))

    return decode


def class_metrics(classes: int, predict: PredictClass = argmax_class) -> tuple[Metric, Metric]:
    """Return accuracy and macro-averaged F1.

    Args:
        classes: how many classes the task has.
        predict: maps outputs (N, C) to the number of the predicted class, (N,) int64.
    """
    return (
        Metric("accuracy", lambda outputs, targets: (predict(outputs) == targets).float()),
        Metric("macro_f1", lambda outputs, targets: macro_f1(predict(outputs), targets, classes)),
    )


def macro_f1(predicted: Int[Tensor, " N"], targets: Int[Tensor, " N"], classes: int) -> Float[Tensor, ""]:
    """Average the F1 of each class, weighting classes equally; shape ().

    A class that occurs neither in ``predicted`` (N,) nor in ``targets`` (N,) is left out of the average,
    as scikit-learn's ``f1_score(average="macro")`` does without ``labels``.
    """
    hits = torch.bincount(targets[predicted == targets], minlength=classes)
    occurrences = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    seen = occurrences > 0
    return (2 * hits[seen] / occurrences[seen]).mean()


def confusion_figure(predict: PredictClass = argmax_class) -> HeadFigure:
    """Return the confusion matrix of a head for classes, as a figure named ``confusion``.

    Args:
        predict: maps outputs (N, C) to the number of the predicted class, (N,) int64.
    """

    def draw(outputs: Tensor, targets: Tensor, labels: Classes) -> "Figure":
        classes = len(labels.names)
        pairs = torch.bincount(targets * classes + predict(outputs), minlength=classes**2)
        return draw_confusion_matrix(pairs.view(classes, classes), labels.names)

    return HeadFigure("confusion", draw)


def draw_confusion_matrix(counts: Int[Tensor, "classes classes"], names: Sequence[str]) -> "Figure":
    """Draw counts of true (rows) against predicted (columns) classes."""
    from matplotlib.figure import Figure

    size = max(3.2, 0.55 * len(names) + 1.6)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(counts.numpy(), cmap="Blues", vmin=0)
    for row, line in enumerate(counts.tolist()):
        for column, count in enumerate(line):
            color = "white" if count > int(counts.max()) / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", parse_math=False)  # a $ in a class name is a dollar
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, shrink=0.8)
    return figure
