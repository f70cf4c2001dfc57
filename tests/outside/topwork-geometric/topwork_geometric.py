"""The geometric mean of the losses (Chennupati et al. 2019)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

import topwork


class GeometricMean(topwork.LossWeighting):
    """The K-th root of the product of K losses."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(losses.values())).log().mean().exp()


class GeometricConfig(topwork.LossWeightingConfig):
    """Settings of the loss weighting ``geometric``."""

    kind: Literal["geometric"] = "geometric"

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting:
        return GeometricMean()


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(GeometricConfig)
