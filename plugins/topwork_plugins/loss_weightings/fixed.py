"""A constant factor for each loss."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

import topwork


class FixedWeighting(topwork.LossWeighting):
    """The weighted sum of the losses."""

    factors_from: ClassVar[topwork.FactorsFrom] = "settings"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {task: weight for task, weight in weights.items() if weight != 1}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        first, *others = (self.weights[task] * loss if task in self.weights else loss for task, loss in losses.items())
        return sum(others, start=first)


class FixedConfig(topwork.LossWeightingConfig):
    """Settings of the loss weighting ``fixed``.

    Attributes:
        weights: the factor of each task's loss; 1 for tasks that are not named.
    """

    kind: Literal["fixed"] = "fixed"
    weights: dict[str, Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]] = Field(default={})

    def named_tasks(self) -> Collection[str]:
        return self.weights.keys()

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting:
        return FixedWeighting(self.weights)


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(FixedConfig)
