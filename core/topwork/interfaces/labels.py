"""Label spaces: what the labels of a task are. The set is closed; a head says which of them it takes.

N are the items that have a label, C the names of a space, S the words of the longest of N texts.
"""

from dataclasses import dataclass, field

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """One class of several. Targets are (N,) int64, the place of a class among the names.

    Attributes:
        names: of the classes of the training rows, in the order of ``labels.order``; else by number where all names
            are whole numbers, and else sorted.
        ordered: whether the order means something: that of ``labels.order``, or of numbers.
        counts: of each class, how many training rows have it; empty where that is not known.
    """

    names: tuple[str, ...]
    ordered: bool = False
    counts: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class LabelSet:
    """Any number of many labels. Targets are (N, C) float32, 1 where a row has a label and 0 where not.

    Attributes:
        names: of the labels of the training rows.
        counts: of each label, how many training rows have it; empty where that is not known.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Numbers:
    """One or several real numbers. Targets are (N, C) float32.

    Attributes:
        names: of the columns.
        mean, scale: of each column, mean and standard deviation of the training rows; a scale is positive.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...] = field(compare=False)
    scale: tuple[float, ...] = field(compare=False)


@dataclass(frozen=True)
class Distribution:
    """Shares of several classes, such as of annotators who disagree. Targets are (N, C) float32; a row sums to 1.

    Attributes:
        names: of the classes.
    """

    names: tuple[str, ...]


#: The target of a word without a label, and of padding; torch's losses pass over it.
NO_LABEL = -100


@dataclass(frozen=True)
class WordLabels:
    """One class for each word of a text. Targets are (N, S) int64, the place of a class among the names.

    Where a text has no further word, or a word has no label, they are ``NO_LABEL``.

    Attributes:
        names: of the classes of all words of the training rows.
        counts: of each class, how many words of the training rows have it; empty where that is not known.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)


def are_of_words(targets: Shaped[Tensor, "N ..."]) -> bool:
    """Whether targets (N, ...) are those of ``WordLabels``, and no other space's."""
    return targets.ndim == 2 and not targets.is_floating_point()


LabelSpace = Classes | LabelSet | Numbers | Distribution | WordLabels
