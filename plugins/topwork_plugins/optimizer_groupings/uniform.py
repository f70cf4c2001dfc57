"""One rate for everything that trains."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

import topwork


class UniformConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``uniform``.

    Attributes:
        lr: learning rate of every trainable parameter.
        weight_decay: AdamW's decay.
    """

    kind: Literal["uniform"] = "uniform"
    lr: float = Field(default=1e-3, ge=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        trainable = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        return [topwork.ParameterGroup("all", trainable, self.lr, self.weight_decay)]


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(UniformConfig)
