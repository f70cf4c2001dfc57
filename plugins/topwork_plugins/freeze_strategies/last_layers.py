"""The last layers of the backbone train, the rest is frozen."""

from collections.abc import Collection
from typing import Literal

import topwork


class LastLayersConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``last_layers``.

    Attributes:
        count: how many transformer layers train, counted from the last.
    """

    kind: Literal["last_layers"] = "last_layers"
    count: topwork.Count = 1

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        stages = model.backbone.stages()
        layers = sorted({stage.layer for stage in stages if stage.layer is not None})
        if self.count > len(layers):
            raise ValueError(f"count must be at most {len(layers)}, the layers of the backbone, but is {self.count}")
        last = set(layers[-self.count :])
        wanted = {
            id(parameter)
            for stage in stages
            if stage.layer in last
            for module in stage.modules
            for parameter in module.parameters()
        }
        return [f"backbone.{name}" for name, parameter in model.backbone.named_parameters() if id(parameter) in wanted]


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(LastLayersConfig)
