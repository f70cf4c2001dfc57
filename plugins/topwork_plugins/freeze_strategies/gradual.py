"""Layers are unfrozen one after the other, the last first (Howard and Ruder 2018, arXiv 1801.06146, section 3.3)."""

from collections.abc import Collection
from typing import Literal

from pydantic import Field

import topwork
from topwork_plugins.freeze_strategies.last_layers import names_in_last_layers, number_of_layers


class GradualConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``gradual``.

    Attributes:
        start: how many transformer layers train from the first epoch, counted from the last layer.
        every: after so many epochs one more layer is unfrozen.
        most: how many layers train in the end; null means all. Embeddings stay frozen.
    """

    kind: Literal["gradual"] = "gradual"
    start: int = Field(default=0, strict=True, ge=0)
    every: topwork.Count = 1
    most: topwork.Count | None = None

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        most = self._most(model)
        return names_in_last_layers(model, min(self.start + (epoch - 1) // self.every, most))

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return range(1 + self.every, epochs + 1, self.every)[: self._most(model) - self.start]

    def _most(self, model: topwork.Model) -> int:
        """How many layers train in the end."""
        layers = number_of_layers(model)
        most = layers if self.most is None else self.most
        if most > layers:
            raise ValueError(f"most must be at most {layers}, the layers of the backbone, but is {most}")
        if self.start > most:
            raise ValueError(f"start must be at most {most}, the layers that train in the end, but is {self.start}")
        return most


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(GradualConfig)
