"""One rate for everything that trains."""

import pytest
from pydantic import ValidationError

import topwork
from topwork.testing import tiny_model
from topwork_plugins.optimizer_groupings.uniform import UniformConfig

HEADS = {f"heads.{task}.{name}" for task in ("animal", "mood") for name in ("weight", "bias")}
NORM = {f"backbone.layer.1.output_layer_norm.{name}" for name in ("weight", "bias")}


def the_group(*trainable: str, **rates: float) -> topwork.ParameterGroup:
    model = tiny_model()
    model.set_trainable(trainable)
    (group,) = UniformConfig(**rates).groups(model)
    return group


def test_heads_and_what_trains_in_the_backbone_are_one_group() -> None:
    assert set(the_group(*NORM).parameters) == HEADS | NORM


def test_with_a_frozen_backbone_the_heads_are_alone() -> None:
    assert set(the_group().parameters) == HEADS


def test_the_group_has_the_rate_and_the_decay_that_were_set() -> None:
    group = the_group(lr=0.25, weight_decay=0.125)
    assert (group.name, group.learning_rate, group.weight_decay) == ("all", 0.25, 0.125)


def test_the_default_rate_is_that_of_the_reference_recipes_heads() -> None:
    assert (the_group().learning_rate, the_group().weight_decay) == (1e-3, 0.01)


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), True, "0.1"], ids=repr)
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_rate_is_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        UniformConfig(**{name: value})
