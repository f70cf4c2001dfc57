"""Nothing is frozen; the whole backbone trains."""

from collections.abc import Collection
from typing import Literal

import topwork


class NoneConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``none``."""

    kind: Literal["none"] = "none"

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        return [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(NoneConfig)
