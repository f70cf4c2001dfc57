"""Freeze strategies that break one rule each."""

import itertools
from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

import topwork
from broken_plugins import Broken
from topwork.testing.freeze_strategy import EPOCHS

#: Every question to every strategy.
questions = itertools.count()


class OddFreezeStrategyConfig(topwork.FreezeStrategyConfig):
    """Settings of a freeze strategy that may break a rule. From the second epoch on, biases train."""

    kind: Literal["odd"] = "odd"
    broken: str = ""

    def trainable(self, model: topwork.Model, epoch: int) -> Collection[str]:
        question = next(questions)
        names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters() if name.endswith("bias")]
        if self.broken == "names heads in the end" and epoch == 100:
            return [name for name, _ in model.named_parameters()]
        if self.broken == "counts questions instead of epochs":
            epoch = 1 + question % len(EPOCHS)
        if self.broken == "takes what trains":
            return [name for name, parameter in model.named_parameters() if parameter.requires_grad and name in names]
        if self.broken == "freezes by itself" and epoch == 3:
            model.backbone.requires_grad_(False)
        if self.broken == "changes weights" and epoch == 10:
            nn.init.zeros_(next(model.backbone.parameters()))
        return names if epoch > 1 else []

    def phase_starts(self, model: topwork.Model, epochs: int) -> Collection[int]:
        if self.broken in ("names heads in the end", "counts questions instead of epochs", "freezes by itself"):
            return range(2, epochs + 1)
        return () if self.broken == "says that it never changes" else (2,)

    def adapt(self, backbone: topwork.Backbone) -> None:
        if self.broken == "adds without saying so":
            backbone.register_parameter("added", nn.Parameter(torch.zeros(1)))
        if self.broken == "changes what is given":
            nn.init.zeros_(next(backbone.parameters()))

    def finish(self, backbone: topwork.Backbone) -> None:
        if self.broken == "adds without saying so":
            del backbone.added
        if self.broken == "changes weights in the end":
            nn.init.zeros_(next(backbone.parameters()))


class AddingConfig(OddFreezeStrategyConfig):
    """Adds a parameter that it never takes away."""

    kind: Literal["adding"] = "adding"  # type: ignore[assignment]  # another kind of the same

    adapts_backbone = True

    def adapt(self, backbone: topwork.Backbone) -> None:
        backbone.register_parameter("added", nn.Parameter(torch.zeros(1)))


BROKEN = [
    Broken(
        "test_it_names_parameters_of_the_backbone_in_every_epoch",
        OddFreezeStrategyConfig(broken="names heads in the end"),
    ),
    Broken(
        "test_what_trains_changes_only_in_the_epochs_that_it_says",
        OddFreezeStrategyConfig(broken="says that it never changes"),
    ),
    Broken(
        "test_the_answer_does_not_depend_on_what_was_asked_before",
        OddFreezeStrategyConfig(broken="counts questions instead of epochs"),
    ),
    Broken("test_the_answer_does_not_depend_on_what_trains_now", OddFreezeStrategyConfig(broken="takes what trains")),
    *(
        Broken("test_what_it_adds_changes_nothing_at_first_and_is_gone_in_the_end", config)
        for config in (
            OddFreezeStrategyConfig(broken="adds without saying so"),
            OddFreezeStrategyConfig(broken="changes what is given"),
            OddFreezeStrategyConfig(broken="changes weights in the end"),
            AddingConfig(),
        )
    ),
    Broken("test_it_touches_nothing", OddFreezeStrategyConfig(broken="freezes by itself")),
    Broken("test_it_touches_nothing", OddFreezeStrategyConfig(broken="changes weights")),
]


@topwork.hookimpl
def register_freeze_strategies(register: topwork.Register[topwork.FreezeStrategyConfig]) -> None:
    register(OddFreezeStrategyConfig)
    register(AddingConfig)
