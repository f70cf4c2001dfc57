"""One rate for everything that trains."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

import topwork
from topwork_plugins.optimizer_groupings.without_decay import spare_biases_and_norms


class UniformConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``uniform``.

    Attributes:
        lr: learning rate of every trainable parameter.
        weight_decay: the optimizer's.
        no_decay: spare biases and norms the weight decay; they get a group of their own.
    """

    kind: Literal["uniform"] = "uniform"
    lr: topwork.Rate = 1e-3
    weight_decay: topwork.Rate = 0.01
    no_decay: bool = Field(default=False, strict=True)

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        trainable = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        groups = [topwork.ParameterGroup("all", trainable, self.lr, self.weight_decay)]
        return spare_biases_and_norms(model, groups) if self.no_decay else groups


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(UniformConfig)
