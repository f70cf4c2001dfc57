"""One rate for everything that trains."""

from collections.abc import Sequence
from typing import Literal

import topwork


class UniformConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``uniform``.

    Attributes:
        lr: learning rate of every trainable parameter.
        weight_decay: AdamW's decay.
    """

    kind: Literal["uniform"] = "uniform"
    lr: topwork.Rate = 1e-3
    weight_decay: topwork.Rate = 0.01

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        trainable = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        return [topwork.ParameterGroup("all", trainable, self.lr, self.weight_decay)]


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(UniformConfig)
