"""What is new learns fast, what is pretrained learns slowly."""

import pytest
from pydantic import ValidationError
from torch import Tensor, nn

import topwork
from topwork.engine.model.multitask import MultiTaskModel
from topwork.testing import tiny_model
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig

HEADS = {f"heads.{task}.{name}" for task in ("animal", "mood") for name in ("weight", "bias")}
NORM = {f"backbone.layer.1.output_layer_norm.{name}" for name in ("weight", "bias")}


class WeighedMean(topwork.Pooling):
    """A pooling that has something to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.weigh = nn.Linear(16, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.weigh(hidden)[:, :, 0].masked_fill(~mask, float("-inf"))
        return (scores.softmax(dim=1)[:, :, None] * hidden).sum(dim=1)


def groups(model: MultiTaskModel, **rates: float) -> dict[str, topwork.ParameterGroup]:
    return {group.name: group for group in HeadsAndBackboneConfig(**rates).groups(model)}


def training(*names: str, pooling: topwork.Pooling | None = None) -> MultiTaskModel:
    model = tiny_model(pooling)
    model.set_trainable(names)
    return model


def test_heads_and_what_trains_in_the_backbone_are_two_groups() -> None:
    found = groups(training(*NORM))
    assert {name: set(group.parameters) for name, group in found.items()} == {"heads": HEADS, "backbone": NORM}


def test_each_group_has_its_rate_and_both_the_decay() -> None:
    found = groups(training(*NORM), heads_lr=0.25, backbone_lr=0.5, weight_decay=0.125)
    assert [(group.name, group.learning_rate, group.weight_decay) for group in found.values()] == [
        ("heads", 0.25, 0.125),
        ("backbone", 0.5, 0.125),
    ]


def test_the_default_rates_are_the_reference_recipes() -> None:
    found = groups(training(*NORM))
    assert {name: (group.learning_rate, group.weight_decay) for name, group in found.items()} == {
        "heads": (1e-3, 0.01),
        "backbone": (5e-5, 0.01),
    }


def test_a_pooling_that_learns_is_new_too() -> None:
    found = groups(training(pooling=WeighedMean()))
    assert set(found["heads"].parameters) == HEADS | {"pooling.weigh.weight", "pooling.weigh.bias"}


def test_with_a_frozen_backbone_its_group_is_empty() -> None:
    assert groups(training())["backbone"].parameters == ()


def test_a_frozen_head_is_in_no_group() -> None:
    model = training(*NORM)
    model.heads["mood"].requires_grad_(False)
    assert set(groups(model)["heads"].parameters) == {"heads.animal.weight", "heads.animal.bias"}


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")], ids=repr)
@pytest.mark.parametrize("name", ["heads_lr", "backbone_lr", "weight_decay"])
def test_a_rate_is_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        HeadsAndBackboneConfig(**{name: value})


def test_a_rate_of_0_is_allowed() -> None:
    assert groups(training(*NORM), backbone_lr=0.0)["backbone"].learning_rate == 0.0
