"""Patterns say which parameter gets which rate."""

import pytest
from pydantic import ValidationError

import topwork
from topwork.testing import tiny_model
from topwork_plugins.optimizer_groupings.by_pattern import ByPatternConfig


def groups(trainable: str = "", **settings: object) -> dict[str, topwork.ParameterGroup]:
    model = tiny_model()
    names = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
    model.set_trainable([name for name in names if trainable in name])
    return {group.name: group for group in ByPatternConfig.model_validate(settings).groups(model)}


def test_what_a_pattern_names_has_its_rate_and_the_rest_another() -> None:
    top = {"patterns": ["layer.1"], "lr": 0.5, "weight_decay": 0.25}
    found = groups(parameter_groups={"top": top, "mood": {"patterns": ["heads.mood"], "lr": 0.125}}, lr=0.0625)
    assert {name.split(".layer.")[1][0] for name in found["top"].parameters} == {"1"}
    assert found["mood"].parameters == ("heads.mood.weight", "heads.mood.bias")
    assert "heads.animal.weight" in found["rest"].parameters
    rates = {name: (group.learning_rate, group.weight_decay) for name, group in found.items()}
    assert rates == {"top": (0.5, 0.25), "mood": (0.125, 0.01), "rest": (0.0625, 0.01)}


def test_what_several_groups_name_is_in_the_first() -> None:
    norms = {"patterns": ["attention_norm", "output_layer_norm"], "lr": 0.5}
    found = groups(parameter_groups={"norms": norms, "top": {"patterns": ["layer.1"], "lr": 0.25}})
    assert all("norm" in name for name in found["norms"].parameters)
    assert len(found["norms"].parameters) == 8
    assert not any("norm" in name for name in found["top"].parameters)


def test_a_pattern_may_name_what_does_not_train_yet() -> None:
    found = groups("layer.1.", parameter_groups={"low": {"patterns": ["layer.0"], "lr": 0.5}})
    assert found["low"].parameters == ()


def test_patterns_that_match_nothing_are_told_together() -> None:
    several = {"a": {"patterns": ["layer.1.fnn"], "lr": 0.5}, "b": {"patterns": ["heads.mod"], "lr": 0.5}}
    with pytest.raises(ValueError) as caught:
        groups(parameter_groups=several)
    assert str(caught.value).splitlines() == [
        "pattern 'layer.1.fnn' of group a matches no parameter; did you mean layer.1.ffn?",
        "pattern 'heads.mod' of group b matches no parameter; did you mean heads.mood?",
    ]


def test_the_rest_cannot_be_named() -> None:
    with pytest.raises(ValidationError, match="no group may be named rest: it is that of what no pattern names"):
        ByPatternConfig.model_validate({"parameter_groups": {"rest": {"patterns": ["heads"], "lr": 0.5}}})


@pytest.mark.parametrize(
    "group", [{"patterns": [], "lr": 0.5}, {"patterns": ["heads"]}, {"patterns": ["heads"], "lr": -1}]
)
def test_a_group_has_patterns_and_a_rate(group: object) -> None:
    with pytest.raises(ValidationError):
        ByPatternConfig.model_validate({"parameter_groups": {"a": group}})
