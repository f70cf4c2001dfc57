"""Patterns match whole segments of parameter names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

import topwork
from small_encoders import write_encoder
from topwork.engine.model.multitask import MultiTaskModel
from topwork.testing import tiny_model
from topwork_plugins.backbones.auto import AutoConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.poolings.cls import ClsPooling

FFN = "backbone.transformer.layer.5.ffn.lin1.weight"
SEGMENTS = st.lists(st.text("ab1.", min_size=1, max_size=3).filter(lambda s: "." not in s), min_size=1, max_size=6)


class Tower(topwork.Backbone):
    """Twelve linear layers, so that there is a ``layer.1`` and a ``layer.10``."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))

    def stages(self) -> Sequence[topwork.Stage]:
        return []

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        return {}

    def save(self, folder: object) -> None: ...


def trainable(*patterns: str, model: topwork.Model | None = None) -> set[str]:
    return set(AllExceptConfig(patterns=patterns).trainable(model or tiny_model(), 1))


def tower() -> MultiTaskModel:
    return MultiTaskModel(Tower(), ClsPooling(2), {})


def error(*patterns: str) -> str:
    with pytest.raises(ValueError) as caught:
        trainable(*patterns)
    return str(caught.value)


def test_layer_1_is_not_layer_10() -> None:
    assert trainable("layer.1", model=tower()) == {"backbone.layer.1.weight", "backbone.layer.1.bias"}


def test_what_a_pattern_names_trains_with_its_full_name() -> None:
    assert trainable("layer.1.output_layer_norm") == {
        "backbone.layer.1.output_layer_norm.weight",
        "backbone.layer.1.output_layer_norm.bias",
    }


def test_a_star_stands_for_any_layer() -> None:
    assert trainable("layer.*.output_layer_norm.bias") == {
        "backbone.layer.0.output_layer_norm.bias",
        "backbone.layer.1.output_layer_norm.bias",
    }


def test_several_patterns_add_up_and_may_overlap() -> None:
    both = trainable("layer.1.ffn", "layer.1")
    assert both == trainable("layer.1")
    assert trainable("layer.0", "layer.1") == trainable("layer.0") | trainable("layer.1") == trainable("layer.*")


def test_heads_are_not_named() -> None:
    assert all(name.startswith("backbone.") for name in trainable("*"))
    assert error("heads").startswith("pattern 'heads' matches no parameter of the backbone")


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layer.1.fnn", "; did you mean layer.1.ffn?"),
        ("layer.1.output_layernorm", "; did you mean layer.1.output_layer_norm?"),
        ("embedings", "; did you mean embeddings?"),
        ("qqqq", ""),
    ],
)
def test_a_pattern_that_matches_nothing_is_named_with_the_nearest(pattern: str, near: str) -> None:
    assert error(pattern) == f"pattern {pattern!r} matches no parameter of the backbone{near}"


def test_all_patterns_that_match_nothing_are_named_together() -> None:
    assert error("qqqq", "layer.1", "zzzz").splitlines() == [
        "pattern 'qqqq' matches no parameter of the backbone",
        "pattern 'zzzz' matches no parameter of the backbone",
    ]


def test_what_trains_is_the_same_in_every_epoch() -> None:
    model = tiny_model()
    first, later = (AllExceptConfig(patterns=("layer.1",)).trainable(model, epoch) for epoch in (1, 7))
    assert set(first) == set(later)


def test_the_core_freezes_all_else() -> None:
    torch.manual_seed(0)
    model = tiny_model()
    names = trainable("layer.1.ffn", model=model)
    model.set_trainable(names)
    assert {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad} == {
        name.removeprefix("backbone.") for name in names
    }


def test_a_pattern_that_names_no_parameter_may_name_a_stage(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert")
    backbone = AutoConfig(model=str(tmp_path), max_length=16).build()
    model = MultiTaskModel(backbone, ClsPooling(backbone.width), {})
    found = trainable("layer.1.ffn", model=model)
    assert {name.split("layer.1.")[1].split(".")[0] for name in found} == {"intermediate", "output"}
    model.set_trainable(found)
    assert model.stages()[model.cut.stage].name == "layer.1.ffn"
    assert trainable("layer.1.output", model=model) < found  # which names parameters, as ever
