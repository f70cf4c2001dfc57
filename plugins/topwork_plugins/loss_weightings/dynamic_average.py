"""Factors by how fast losses fall: the slower, the greater."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

import topwork


class DynamicAverageWeighting(topwork.LossWeighting):
    """The weighted sum of the losses, with factors K softmax(r / T) over K tasks, r = L(epoch - 1) / L(epoch - 2).

    All factors are 1 until each task has a mean training loss of two epochs. Liu, Johns, Davison, CVPR 2019, section
    3.3.
    """

    factors_from: ClassVar[topwork.FactorsFrom] = "history"

    def __init__(self, tasks: Sequence[str], temperature: float) -> None:
        super().__init__()
        self.tasks = {task: number for number, task in enumerate(tasks)}
        self.temperature = temperature
        self.register_buffer("means", torch.full((2, len(tasks)), torch.nan))  # of the epoch before last, and the last
        self.register_buffer("factors", torch.ones(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        factors = self.get_buffer("factors")[[self.tasks[task] for task in losses]]
        return (factors * torch.stack(list(losses.values()))).sum()

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        means = self.get_buffer("means")
        for task, loss in losses.items():
            number = self.tasks[task]
            means[:, number] = torch.tensor([float(means[1, number]), loss])
        before, last = means.unbind()
        ratios = torch.where(before == last, 1.0, last / before)  # two losses of 0 are equal
        if ratios.isfinite().all():
            self.get_buffer("factors").copy_(len(ratios) * torch.softmax(ratios / self.temperature, dim=0))


class DynamicAverageConfig(topwork.LossWeightingConfig):
    """Settings of the loss weighting ``dynamic_average``.

    Attributes:
        temperature: T, above 0; the higher, the more equal are the factors.
    """

    kind: Literal["dynamic_average"] = "dynamic_average"
    temperature: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 2.0

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting:
        return DynamicAverageWeighting(tasks, self.temperature)


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(DynamicAverageConfig)
