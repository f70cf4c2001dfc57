"""Two rates: a high one for what is new, a low one for what is pretrained."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

import topwork
from topwork_plugins.optimizer_groupings.without_decay import spare_biases_and_norms


class HeadsAndBackboneConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``heads_and_backbone``.

    Attributes:
        heads_lr: learning rate of heads and pooling.
        backbone_lr: learning rate of what trains in the backbone.
        weight_decay: the optimizer's, in both groups.
        no_decay: spare biases and norms the weight decay; they get groups of their own.
    """

    kind: Literal["heads_and_backbone"] = "heads_and_backbone"
    heads_lr: topwork.Rate = 1e-3
    backbone_lr: topwork.Rate = 5e-5
    weight_decay: topwork.Rate = 0.01
    no_decay: bool = Field(default=False, strict=True)

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        backbone = tuple(name for name in trainable if name.startswith("backbone."))
        heads = tuple(name for name in trainable if not name.startswith("backbone."))
        groups = [
            topwork.ParameterGroup("heads", heads, self.heads_lr, self.weight_decay),
            topwork.ParameterGroup("backbone", backbone, self.backbone_lr, self.weight_decay),
        ]
        return spare_biases_and_norms(model, groups) if self.no_decay else groups


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(HeadsAndBackboneConfig)
