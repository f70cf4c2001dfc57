"""Loss weightings that break one rule each."""

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import topwork
from broken_plugins import Broken

#: Every total of every weighting.
totals = itertools.count(1)


class OddWeighting(topwork.LossWeighting):
    """Learns a factor for each task, and multiplies by one that grows with the epochs."""

    factors_from: ClassVar[topwork.FactorsFrom] = "history"

    def __init__(self, tasks: Sequence[str], broken: str) -> None:
        super().__init__()
        self.broken = broken
        self.scales = nn.ParameterDict({task: nn.Parameter(torch.ones(())) for task in tasks})
        if broken == "never uses a parameter":
            self.idle = nn.Parameter(torch.ones(()))
        self.register_buffer("growth", torch.ones(()))
        self.secret = 1.0

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        values = [self.scales[task] * loss for task, loss in losses.items()]
        if self.broken == "wants all tasks":
            values = [self.scales[task] * losses.get(task, torch.tensor(torch.nan)) for task in self.scales]
        if self.broken == "reads the losses in secret":
            values = [loss * loss for loss in values]
        if self.broken == "changes losses":
            with torch.no_grad():
                next(iter(losses.values())).mul_(2.0)
        if self.broken == "draws elsewhere":
            return torch.stack(values).sum() * (1.0 + 0.0 * float(self.growth)) + float(next(totals))
        return torch.stack(values).sum() * self.get_buffer("growth") * self.secret

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        if self.broken == "keeps what it learnt to itself":
            self.secret += 1.0
        self.get_buffer("growth").add_(1.0)


class ChangingWeighting(OddWeighting):
    """Says that its factors never change, which they do."""

    factors_from: ClassVar[topwork.FactorsFrom] = "settings"


class FirstGradient(topwork.GradientWeighting):
    """Takes the first task's gradient, and may write into it."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken
        self.steps = 0

    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        self.steps += self.broken == "counts its steps"
        return gradients[0].mul_(2.0) if self.broken == "changes gradients" else gradients[0] * (1 + self.steps)


class OddLossWeightingConfig(topwork.LossWeightingConfig):
    """Settings of a loss weighting that may break a rule."""

    kind: Literal["odd"] = "odd"
    broken: str = ""
    gradients: bool = False

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting | topwork.GradientWeighting:
        if self.gradients:
            return FirstGradient(self.broken)
        made = ChangingWeighting if self.broken == "changes its factors" else OddWeighting
        return made(tasks, self.broken)


BROKEN = [
    Broken("test_it_gives_one_total_or_one_gradient_for_any_tasks", OddLossWeightingConfig(broken="wants all tasks")),
    Broken("test_every_parameter_gets_a_gradient", OddLossWeightingConfig(broken="never uses a parameter")),
    Broken(
        "test_what_it_is_given_is_not_changed",
        OddLossWeightingConfig(broken="changes gradients", gradients=True),
        also=set(),
    ),
    Broken("test_factors_depend_on_what_it_says", OddLossWeightingConfig(broken="reads the losses in secret")),
    Broken("test_factors_depend_on_what_it_says", OddLossWeightingConfig(broken="changes its factors")),
    Broken(
        "test_all_that_changes_is_in_its_state",
        OddLossWeightingConfig(broken="keeps what it learnt to itself"),
    ),
    Broken(
        "test_all_that_changes_is_in_its_state",
        OddLossWeightingConfig(broken="counts its steps", gradients=True),
        also=set(),
    ),
    Broken("test_the_same_seed_gives_the_same", OddLossWeightingConfig(broken="draws elsewhere")),
]


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(OddLossWeightingConfig)
