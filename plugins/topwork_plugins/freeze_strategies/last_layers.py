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
        return names_in_last_layers(model, self.count, setting="count")

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


def number_of_layers(model: topwork.Model) -> int:
    """How many transformer layers the backbone has."""
    return len({stage.layer for stage in model.backbone.stages() if stage.layer is not None})


def names_in_last_layers(model: topwork.Model, count: int | None, *, setting: str = "layers") -> list[str]:
    """Return the names of the parameters in the last ``count`` layers; where it is None, in the whole backbone.

    Raises:
        ValueError: there are fewer layers; calls the count by the name of its ``setting``.
    """
    layers = number_of_layers(model)
    if count is None:
        return [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
    if count > layers:
        raise ValueError(f"{setting} must be at most {layers}, the layers of the backbone, but is {count}")
    first = layers - count
    wanted = {
        id(parameter)
        for stage in model.backbone.stages()
        if stage.layer is not None and stage.layer >= first
        for module in stage.modules
        for parameter in module.parameters()
    }
    return [f"backbone.{name}" for name, parameter in model.backbone.named_parameters() if id(parameter) in wanted]


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(LastLayersConfig)
