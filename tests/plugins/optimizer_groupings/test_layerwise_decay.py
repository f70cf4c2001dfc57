"""Rates fall from layer to layer, from the heads down."""

import pytest
from pydantic import ValidationError

import topwork
from topwork.testing import tiny_model
from topwork_plugins.optimizer_groupings.layerwise_decay import LayerwiseDecayConfig


def groups(trainable: str = "", **settings: float | bool) -> dict[str, topwork.ParameterGroup]:
    model = tiny_model()
    names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
    model.set_trainable([name for name in names if trainable in name])
    return {group.name: group for group in LayerwiseDecayConfig(**settings).groups(model)}


def test_each_layer_has_a_part_of_the_rate_of_the_next() -> None:
    found = groups(heads_lr=0.5, backbone_lr=0.25, decay=0.5, weight_decay=0.125)
    rates = {name: (group.learning_rate, group.weight_decay) for name, group in found.items()}
    assert rates == {
        "heads": (0.5, 0.125),
        "layer.1": (0.25, 0.125),
        "layer.0": (0.125, 0.125),
        "embeddings": (0.0625, 0.125),
    }


def test_parameters_are_where_their_stage_is() -> None:
    found = groups()
    assert set(found["embeddings"].parameters) == {"backbone.embeddings.weight", "backbone.positions.weight"}
    for layer in ("layer.0", "layer.1"):
        assert all(name.startswith(f"backbone.{layer}.") for name in found[layer].parameters)
    assert all(name.startswith("heads.") for name in found["heads"].parameters)


def test_a_layer_has_the_same_rate_whatever_else_trains() -> None:
    assert groups("layer.0.")["layer.0"].learning_rate == groups()["layer.0"].learning_rate


def test_what_is_behind_the_last_layer_learns_as_it_does() -> None:
    model = tiny_model()
    whole = model.backbone.stages()
    model.backbone.stages = lambda: [*whole[:-1], topwork.Stage("final", whole[-1].modules, whole[-1].run, False)]
    found = {group.name: group for group in LayerwiseDecayConfig().groups(model)}
    assert any("ffn" in name for name in found["layer.1"].parameters)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")], ids=repr)
def test_the_decay_is_above_0_and_at_most_1(decay: float) -> None:
    with pytest.raises(ValidationError, match="decay"):
        LayerwiseDecayConfig(decay=decay)
