"""The whole backbone is frozen; heads alone train."""

from collections.abc import Collection
from typing import Literal

import topwork


class AllConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``all``."""

    kind: Literal["all"] = "all"

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        return []

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(AllConfig)
