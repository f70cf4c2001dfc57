"""Everything in the backbone is frozen but what a pattern names."""

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field

import topwork
from topwork_plugins.parameter_names import matches, near_miss


class AllExceptConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``all_except``.

    Attributes:
        patterns: parts of parameter names, in whole dotted segments: ``layer.5.ffn`` matches
            ``transformer.layer.5.ffn.lin1.weight``, and ``layer.1`` never matches ``layer.10``. A ``*``
            stands for any one segment. A pattern that names no parameter may name a stage, as the plan shows them:
            then all parameters of the stage train.
    """

    kind: Literal["all_except"] = "all_except"
    patterns: tuple[str, ...] = Field(default=("layer.5.ffn", "layer.5.output_layer_norm"), min_length=1)

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        stages = {f"backbone.{stage.name}": stage for stage in model.backbone.stages()}
        trainable: list[str] = []
        idle: list[str] = []
        for pattern in self.patterns:
            matched = [name for name in names if matches(pattern, name)]
            matched = matched or _names_in([stage for name, stage in stages.items() if matches(pattern, name)], model)
            trainable += matched
            if not matched:
                meant = near_miss(pattern, [*names, *stages])
                idle.append(f"pattern {pattern!r} matches no parameter of the backbone{meant}")
        if idle:
            raise ValueError("\n".join(idle))
        return trainable

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


def _names_in(stages: Sequence[topwork.Stage], model: topwork.Model) -> list[str]:
    """Return the names of the parameters of some stages."""
    inside = {id(p) for stage in stages for module in stage.modules for p in module.parameters()}
    return [f"backbone.{name}" for name, one in model.backbone.named_parameters() if id(one) in inside]


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(AllExceptConfig)
