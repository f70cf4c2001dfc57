"""The layer norms of the backbone train, all else is frozen."""

from collections.abc import Collection
from typing import Literal

import topwork
from topwork_plugins.freeze_strategies.last_layers import names_in_last_layers


class LayerNormsConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``layer_norms``. A norm is a module with ``Norm`` in the name of its class.

    Attributes:
        layers: of so many layers, counted from the last, so that those before them are computed once; null trains the
            norms of the whole backbone.
    """

    kind: Literal["layer_norms"] = "layer_norms"
    layers: topwork.Count | None = None

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        norms = {
            f"backbone.{name}.{own}"
            for name, module in model.backbone.named_modules()
            if "Norm" in type(module).__name__
            for own, _ in module.named_parameters(recurse=False)  # a model may have Norm in its own name
        }
        names = [name for name in names_in_last_layers(model, self.layers) if name in norms]
        if not names:
            raise ValueError("what should train has no layer norms with weights; choose another freeze strategy")
        return names

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(LayerNormsConfig)
