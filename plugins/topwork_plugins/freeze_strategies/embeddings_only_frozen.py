"""The embeddings are frozen, everything behind them trains."""

from collections.abc import Collection
from itertools import takewhile
from typing import Literal

import topwork


class EmbeddingsOnlyFrozenConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``embeddings_only_frozen``."""

    kind: Literal["embeddings_only_frozen"] = "embeddings_only_frozen"

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        before = takewhile(lambda stage: stage.layer is None, model.backbone.stages())
        frozen = {id(one) for stage in before for module in stage.modules for one in module.parameters()}
        return [f"backbone.{name}" for name, one in model.backbone.named_parameters() if id(one) not in frozen]

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(EmbeddingsOnlyFrozenConfig)
