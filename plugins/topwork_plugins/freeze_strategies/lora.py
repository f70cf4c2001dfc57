"""Low-rank adapters train beside the frozen weights of linear layers (Hu et al. 2022), through PEFT."""

import re
from collections.abc import Collection, Sequence
from typing import Literal

from torch import nn

import topwork
from topwork_plugins.parameter_names import matches, near_miss


class LoraConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``lora``; needs ``pip install 'topwork[lora]'``.

    What is saved has the adapters merged into the weights, so that it is loaded without PEFT.

    Attributes:
        rank: of the matrices that are added.
        alpha: their product counts ``alpha / rank`` times.
        dropout: of what goes into an adapter.
        layers: adapt so many, counted from the last, so that those before them are computed once; null adapts all.
        targets: adapt the linear layers that these patterns name, such as ``q_lin``; without any, all of those layers.
    """

    kind: Literal["lora"] = "lora"
    rank: topwork.Count = 8
    alpha: topwork.Count = 16
    dropout: topwork.Rate = 0.0
    layers: topwork.Count | None = None
    targets: tuple[str, ...] = ()

    adapts_backbone = True

    def adapt(self, backbone: topwork.Backbone) -> None:
        try:
            import peft
        except ImportError as error:
            raise ValueError(f"adapters need PEFT: pip install 'topwork[lora]' ({error})") from None
        if self.dropout >= 1:
            raise ValueError(f"dropout must be less than 1, but is {self.dropout:g}")
        names = "|".join(map(re.escape, self._adapted(backbone)))
        settings = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=f"({names})"
        )
        peft.inject_adapter_in_model(settings, backbone)

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        return [f"backbone.{name}" for name, _ in model.backbone.named_parameters() if ".lora_" in name]

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()

    def finish(self, backbone: topwork.Backbone) -> None:
        from peft.tuners.lora import LoraLayer

        for name, module in [*backbone.named_modules()]:
            if isinstance(module, LoraLayer):
                module.merge()
                parent, _, child = name.rpartition(".")
                setattr(backbone.get_submodule(parent), child, module.get_base_layer())

    def _adapted(self, backbone: topwork.Backbone) -> list[str]:
        """Return the names of the linear layers that are adapted.

        Raises:
            ValueError: there are fewer layers, or a pattern names none.
        """
        linear = linear_layers(backbone, self.layers)
        unmatched = [pattern for pattern in self.targets if not any(matches(pattern, name) for name in linear)]
        if unmatched:
            meant = near_miss(unmatched[0], linear)
            raise ValueError(f"{unmatched[0]!r} names no linear layer of the layers that are adapted{meant}")
        return [name for name in linear if not self.targets or any(matches(one, name) for one in self.targets)]


def linear_layers(backbone: topwork.Backbone, count: int | None) -> Sequence[str]:
    """Return the names of the linear layers in the last ``count`` transformer layers; where it is None, in all.

    Raises:
        ValueError: there are fewer layers, or no linear layer in them.
    """
    numbers = sorted({stage.layer for stage in backbone.stages() if stage.layer is not None})
    if count is not None and count > len(numbers):
        raise ValueError(f"layers must be at most {len(numbers)}, the layers of the backbone, but is {count}")
    wanted = numbers if count is None else numbers[-count:]
    parts = [module for stage in backbone.stages() if stage.layer in wanted for module in stage.modules]
    inside = {id(module) for part in parts for module in part.modules()}
    # of a subclass the weight may be used otherwise than by calling it, as attention of torch's own does
    found = [name for name, module in backbone.named_modules() if type(module) is nn.Linear and id(module) in inside]
    if not found:
        raise ValueError("the layers to adapt have no linear layers; choose another freeze strategy")
    return found


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(LoraConfig)
