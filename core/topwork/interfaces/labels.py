"""Label spaces: what the labels of a task are. The set is closed; a head says which of them it takes.

N are the items that have a label, C the names of a space.
"""

from dataclasses import dataclass, field


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


LabelSpace = Classes | LabelSet | Numbers | Distribution
