"""A rate for each layer: the nearer to the heads, the higher (Howard and Ruder 2018)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

import topwork
from topwork_plugins.optimizer_groupings.without_decay import spare_biases_and_norms


class LayerwiseDecayConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``layerwise_decay``.

    Attributes:
        heads_lr: learning rate of heads and pooling.
        backbone_lr: learning rate of the backbone's last layer, and of what trains behind it.
        decay: what the rate of each layer is multiplied with for the layer before it, and that of the first layer for
            the embeddings; above 0, up to 1.
        weight_decay: the optimizer's, in all groups.
        no_decay: spare biases and norms the weight decay.
    """

    kind: Literal["layerwise_decay"] = "layerwise_decay"
    heads_lr: topwork.Rate = 1e-3
    backbone_lr: topwork.Rate = 5e-5
    decay: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.8
    weight_decay: topwork.Rate = 0.01
    no_decay: bool = Field(default=False, strict=True)

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        layer_of = layers_of_parameters(model.backbone)
        last = max(layer_of.values(), default=-1)
        found: dict[int, list[str]] = {layer: [] for layer in range(last, -2, -1)}
        heads: list[str] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (found[layer_of[id(parameter)]] if id(parameter) in layer_of else heads).append(name)
        groups = [topwork.ParameterGroup("heads", tuple(heads), self.heads_lr, self.weight_decay)]
        for layer, names in found.items():
            rate = self.backbone_lr * self.decay ** (last - layer)
            name = "embeddings" if layer < 0 else f"layer.{layer}"
            groups.append(topwork.ParameterGroup(name, tuple(names), rate, self.weight_decay))
        return spare_biases_and_norms(model, groups) if self.no_decay else groups


def layers_of_parameters(backbone: topwork.Backbone) -> dict[int, int]:
    """Return the number of the layer of each parameter, by its id: -1 before all layers, the last behind them."""
    layers: dict[int, int] = {}
    layer = -1
    for stage in backbone.stages():
        layer = layer if stage.layer is None else stage.layer
        layers |= {id(parameter): layer for module in stage.modules for parameter in module.parameters()}
    return layers


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(LayerwiseDecayConfig)
