"""The biases of the backbone train, the weights are frozen (Ben Zaken et al. 2022)."""

from collections.abc import Collection
from typing import Literal

import topwork
from topwork_plugins.freeze_strategies.last_layers import names_in_last_layers


class BitfitConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``bitfit``.

    Attributes:
        layers: of so many layers, counted from the last, so that those before them are computed once; null trains the
            biases of the whole backbone.
    """

    kind: Literal["bitfit"] = "bitfit"
    layers: topwork.Count | None = None

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        biases = [name for name in names_in_last_layers(model, self.layers) if name.endswith("bias")]
        if not biases:
            raise ValueError("what should train has no biases; choose another freeze strategy, such as layer_norms")
        return biases

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(BitfitConfig)
