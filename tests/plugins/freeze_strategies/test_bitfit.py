"""Biases train, weights do not."""

import pytest

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.bitfit import BitfitConfig


def test_all_biases_of_the_backbone_train() -> None:
    model = tiny_model()
    wanted = {f"backbone.{name}" for name, _ in model.backbone.named_parameters() if name.endswith("bias")}
    assert set(BitfitConfig().trainable(model, 1)) == wanted
    assert "backbone.layer.0.attention.in_proj_bias" in wanted


def test_those_of_the_last_layers_alone_leave_the_others_frozen() -> None:
    model = tiny_model()
    found = BitfitConfig(layers=1).trainable(model, 1)
    assert found
    assert all(name.startswith("backbone.layer.1.") and name.endswith("bias") for name in found)
    model.set_trainable(found)
    assert model.cut.stage > 1  # what is before the last layer is computed once


def test_more_layers_than_there_are_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^layers must be at most 2, the layers of the backbone, but is 3$"):
        BitfitConfig(layers=3).trainable(tiny_model(), 1)


def test_a_backbone_without_biases_is_an_error() -> None:
    model = tiny_model()
    for module in model.backbone.modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            if name.endswith("bias"):
                module.register_parameter(name, None)
    with pytest.raises(ValueError, match="has no biases; choose another freeze strategy, such as layer_norms"):
        BitfitConfig().trainable(model, 1)
