"""Optimizer groupings that break one rule each."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch

import topwork
from broken_plugins import Broken

#: Every question to every grouping.
questions = itertools.count(1)


class OddOptimizerGroupingConfig(topwork.OptimizerGroupingConfig):
    """Settings of an optimizer grouping that may break a rule."""

    kind: Literal["odd"] = "odd"
    broken: str = ""

    def groups(self, model: topwork.Model) -> Sequence[topwork.ParameterGroup]:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.broken == "forgets poolings":
            names = [name for name in names if not name.startswith("pooling.")]
        rate = 1 / next(questions) if self.broken == "lowers the rate each time" else 0.1
        if self.broken == "changes weights":
            with torch.no_grad():
                next(model.backbone.parameters()).mul_(2)
        nobody = topwork.ParameterGroup("nobody", (), -0.1 if self.broken == "has a negative rate" else 0.1, 0.0)
        return [topwork.ParameterGroup("all", tuple(names), rate, 0.01), nobody]


BROKEN = [
    Broken(
        "test_every_trainable_parameter_is_in_exactly_one_group",
        OddOptimizerGroupingConfig(broken="forgets poolings"),
        topwork.PluginError,
    ),
    Broken(
        "test_rates_and_decays_are_finite_and_not_negative", OddOptimizerGroupingConfig(broken="has a negative rate")
    ),
    Broken(
        "test_the_answer_does_not_depend_on_what_was_asked_before",
        OddOptimizerGroupingConfig(broken="lowers the rate each time"),
    ),
    Broken("test_it_touches_nothing", OddOptimizerGroupingConfig(broken="changes weights")),
]


@topwork.hookimpl
def register_optimizer_groupings(register: topwork.Register[topwork.OptimizerGroupingConfig]) -> None:
    register(OddOptimizerGroupingConfig)
