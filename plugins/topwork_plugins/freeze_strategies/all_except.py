"""Everything in the backbone is frozen but what a pattern names."""

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field

import topwork


class AllExceptConfig(topwork.FreezeStrategyConfig):
    """Settings of the freeze strategy ``all_except``.

    Attributes:
        patterns: parts of parameter names, in whole dotted segments: ``layer.5.ffn`` matches
            ``transformer.layer.5.ffn.lin1.weight``, and ``layer.1`` never matches ``layer.10``. A ``*``
            stands for any one segment.
    """

    kind: Literal["all_except"] = "all_except"
    patterns: tuple[str, ...] = Field(default=("layer.5.ffn", "layer.5.output_layer_norm"), min_length=1)

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        trainable: list[str] = []
        idle: list[str] = []
        for pattern in self.patterns:
            matched = [name for name in names if matches(pattern, name)]
            trainable += matched
            if not matched:
                idle.append(f"pattern {pattern!r} matches no parameter of the backbone{near_miss(pattern, names)}")
        if idle:
            raise ValueError("\n".join(idle))
        return trainable

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        return ()


def matches(pattern: str, name: str) -> bool:
    """Whether the dotted segments of ``pattern`` occur in a row among those of ``name``."""
    wanted = pattern.split(".")
    return any(
        all(want in ("*", have) for want, have in zip(wanted, window, strict=True))
        for window in _windows(name, len(wanted))
    )


def near_miss(pattern: str, names: Sequence[str]) -> str:
    """Suggest what in ``names`` the researcher may have meant by ``pattern``."""
    length = pattern.count(".") + 1
    return topwork.did_you_mean(pattern, {".".join(window) for name in names for window in _windows(name, length)})


def _windows(name: str, length: int) -> list[list[str]]:
    segments = name.split(".")
    return [segments[start : start + length] for start in range(len(segments) - length + 1)]


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(AllExceptConfig)
