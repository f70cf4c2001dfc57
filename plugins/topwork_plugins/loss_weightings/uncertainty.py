"""Factors that are learnt: the less certain a task, the smaller."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import topwork


class UncertaintyWeighting(topwork.LossWeighting):
    """The sum of exp(-s) L / 2 + s / 2 over the tasks, with s the logarithm of a task's variance, which is learnt.

    Kendall, Gal, Cipolla, CVPR 2018, equation 7.
    """

    factors_from: ClassVar[topwork.FactorsFrom] = "history"

    def __init__(self, tasks: Sequence[str], learning_rate: float) -> None:
        super().__init__()
        self.tasks = {task: number for number, task in enumerate(tasks)}
        self.learning_rate = learning_rate
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        log_variances = self.log_variances[[self.tasks[task] for task in losses]]
        values = torch.stack(list(losses.values()))
        return (0.5 * torch.exp(-log_variances) * values + 0.5 * log_variances).sum()


class UncertaintyConfig(topwork.LossWeightingConfig):
    """Settings of the loss weighting ``uncertainty``.

    Attributes:
        learning_rate: of the logarithms of the tasks' variances, which begin at 0.
    """

    kind: Literal["uncertainty"] = "uncertainty"
    learning_rate: topwork.Rate = 1e-3

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting:
        return UncertaintyWeighting(tasks, self.learning_rate)


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(UncertaintyConfig)
