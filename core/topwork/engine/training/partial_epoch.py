"""What an epoch that is being trained has given so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from topwork.engine.training.gradients import GradientStatistics
from topwork.engine.training.step import Step


@dataclass
class PartialEpoch:
    """What an epoch has given in the steps that are done.

    Attributes:
        steps: how many are done.
        rows: how many were trained on.
        seconds: how long that took.
        rates: each group's learning rate in the last step.
        sums: for each task that had rows, its mean losses times what these means are divided by, added up.
        denominators: for the same tasks, the sum of what these means are divided by.
        factors: of each loss, by step, where factors change.
        gradients: norms and cosines of the tasks' gradients, by batch, where they are compared.
    """

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    denominators: dict[str, float] = field(default_factory=dict)
    factors: dict[str, list[float]] = field(default_factory=dict)
    gradients: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: Step, *, rows: int, rates: Mapping[str, float], seconds: float) -> None:
        """Take what a step gave."""
        self.steps += 1
        self.rows += rows
        self.seconds += seconds
        self.rates = dict(rates)
        for name, loss in step.losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss * step.denominators[name]
            self.denominators[name] = self.denominators.get(name, 0.0) + step.denominators[name]
        for name, factor in step.factors.items():
            self.factors.setdefault(name, []).append(factor)

    def losses(self, tasks: Iterable[str]) -> dict[str, float]:
        """Return the mean loss of each of some tasks that had rows."""
        return {name: self.sums[name] / self.denominators[name] for name in tasks if name in self.sums}

    @property
    def further(self) -> dict[str, float]:
        """The mean factor of each loss, where factors change; and what is to be known of the tasks' gradients."""
        factors = {f"weighting/{name}": fmean(values) for name, values in self.factors.items()}
        return factors | GradientStatistics(self.gradients).means()
