"""Rates for what patterns name, and one for the rest."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

import topwork
from topwork_plugins.optimizer_groupings.without_decay import spare_biases_and_norms
from topwork_plugins.parameter_names import matches, near_miss

#: The group of what no pattern names.
REST = "rest"


class PatternGroup(BaseModel):
    """A group of ``by_pattern``.

    Attributes:
        patterns: parts of parameter names, in whole dotted segments, as in the freeze strategy ``all_except``. Heads
            and pooling have names too: ``heads.sentiment``, ``pooling``.
        lr: learning rate of what they name.
        weight_decay: the optimizer's; null takes that of the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[str, ...] = Field(min_length=1)
    lr: topwork.Rate
    weight_decay: topwork.Rate | None = None


def _heads() -> dict[str, PatternGroup]:
    return {"heads": PatternGroup(patterns=("heads",), lr=1e-3)}


class ByPatternConfig(topwork.OptimizerGroupingConfig):
    """Settings of the optimizer grouping ``by_pattern``.

    Attributes:
        parameter_groups: the groups by name. A parameter that several have a pattern for is in the first of them.
        lr: learning rate of the rest, a pooling that learns among it.
        weight_decay: the optimizer's.
        no_decay: spare biases and norms the weight decay; they get groups of their own.
    """

    kind: Literal["by_pattern"] = "by_pattern"
    parameter_groups: Annotated[dict[str, PatternGroup], Field(min_length=1)] = Field(default_factory=_heads)
    lr: topwork.Rate = 5e-5
    weight_decay: topwork.Rate = 0.01
    no_decay: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _rest_is_not_named(self) -> "ByPatternConfig":
        if REST in self.parameter_groups:
            raise ValueError(f"no group may be named {REST}: it is that of what no pattern names")
        if wrong := [name for name in self.parameter_groups if not re.fullmatch(r"[\w. -]+", name)]:
            raise ValueError(f"a group's name has letters, digits, _ - . and spaces only, got {wrong[0]!r}")
        return self

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        parameters = dict(model.named_parameters())
        self._check_patterns(list(parameters))
        found: dict[str, list[str]] = {name: [] for name in (*self.parameter_groups, REST)}
        for name in (name for name, parameter in parameters.items() if parameter.requires_grad):
            found[self._group_of(name)].append(name)
        groups = [topwork.ParameterGroup(name, tuple(found[name]), *self._rates(name)) for name in found]
        return spare_biases_and_norms(model, groups) if self.no_decay else groups

    def _group_of(self, parameter: str) -> str:
        """Return the name of the first group with a pattern that matches."""
        groups = self.parameter_groups.items()
        return next((name for name, one in groups if any(matches(each, parameter) for each in one.patterns)), REST)

    def _rates(self, name: str) -> tuple[float, float]:
        """Return the learning rate and the weight decay of a group."""
        if name == REST:
            return self.lr, self.weight_decay
        group = self.parameter_groups[name]
        return group.lr, self.weight_decay if group.weight_decay is None else group.weight_decay

    def _check_patterns(self, names: Sequence[str]) -> None:
        idle = [
            f"pattern {pattern!r} of group {group} matches no parameter{near_miss(pattern, names)}"
            for group, one in self.parameter_groups.items()
            for pattern in one.patterns
            if not any(matches(pattern, name) for name in names)
        ]
        if idle:
            raise ValueError("\n".join(idle))


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(ByPatternConfig)
