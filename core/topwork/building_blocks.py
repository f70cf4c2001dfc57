"""What plugins are commonly built from; their authors are welcome to it."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from topwork.interfaces.head import Decoded, Metric
from topwork.interfaces.labels import Classes, Distribution

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


def decode_logits(labels: Classes | Distribution) -> Callable[[Tensor], Decoded]:
    """Return a ``Head.decode`` for outputs (N, C) that are the logits of the classes."""

    def decode(outputs: Tensor) -> Decoded:
        return Decoded([labels.names[number] for number in argmax_class(outputs)], outputs.softmax(dim=1))

    return decode


def class_metrics(classes: int, predict: PredictClass = argmax_class) -> tuple[Metric, Metric, Metric]:
    """Return accuracy, macro-averaged F1, and the Matthews correlation.

    Args:
        classes: how many classes the task has.
        predict: maps outputs (N, C) to the number of the predicted class, (N,) int64.
    """
    return (
        Metric("accuracy", lambda outputs, targets: (predict(outputs) == targets).float(), bounds=(0, 1)),
        Metric("macro_f1", lambda outputs, targets: macro_f1(predict(outputs), targets, classes), bounds=(0, 1)),
        Metric("matthews", lambda outputs, targets: matthews(predict(outputs), targets, classes), bounds=(-1, 1)),
    )


def matthews(predicted: Int[Tensor, " N"], targets: Int[Tensor, " N"], classes: int) -> Float[Tensor, ""]:
    """Return the Matthews correlation of classes (Gorodkin 2004), from -1 to 1, shape ().

    It is 0 where all are predicted as one class or are of one, as in scikit-learn's ``matthews_corrcoef``.
    """
    count = len(targets)
    guessed, true = (torch.bincount(one, minlength=classes).double() for one in (predicted, targets))
    covariance = count * (predicted == targets).sum().double() - guessed @ true
    spread = ((count**2 - guessed @ guessed) * (count**2 - true @ true)).sqrt()
    return (covariance / spread if spread > 0 else spread).float()


def macro_f1(predicted: Int[Tensor, " N"], targets: Int[Tensor, " N"], classes: int) -> Float[Tensor, ""]:
    """Average the F1 of each class, weighting classes equally; shape ().

    A class that occurs neither in ``predicted`` (N,) nor in ``targets`` (N,) is left out of the average,
    as scikit-learn's ``f1_score(average="macro")`` does without ``labels``.
    """
    hits = torch.bincount(targets[predicted == targets], minlength=classes)
    occurrences = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    seen = occurrences > 0
    return (2 * hits[seen] / occurrences[seen]).mean()
