"""Layer norms train, all else is frozen."""

import pytest
from torch import nn

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.layer_norms import LayerNormsConfig


def test_the_norms_of_the_whole_backbone_train() -> None:
    found = LayerNormsConfig().trainable(tiny_model(), 1)
    assert set(found) == {
        f"backbone.layer.{layer}.{norm}.{name}"
        for layer in (0, 1)
        for norm in ("attention_norm", "output_layer_norm")
        for name in ("weight", "bias")
    }


def test_those_of_the_last_layers_alone_leave_the_others_frozen() -> None:
    found = LayerNormsConfig(layers=1).trainable(tiny_model(), 1)
    assert len(found) == 4
    assert all(name.startswith("backbone.layer.1.") for name in found)


def test_norms_are_found_whatever_library_has_written_them() -> None:
    class AcmeRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(nn.init.ones_(nn.Linear(1, 16).weight[:, 0].detach()))

    model = tiny_model()
    model.backbone.get_submodule("layer.1").attention_norm = AcmeRMSNorm()
    assert "backbone.layer.1.attention_norm.scale" in LayerNormsConfig().trainable(model, 1)


def test_a_backbone_without_norms_is_an_error() -> None:
    model = tiny_model()
    for layer in ("layer.0", "layer.1"):
        for norm in ("attention_norm", "output_layer_norm"):
            setattr(model.backbone.get_submodule(layer), norm, nn.Identity())
    with pytest.raises(ValueError, match="has no layer norms with weights; choose another freeze strategy"):
        LayerNormsConfig().trainable(model, 1)


def test_a_module_that_holds_others_is_no_norm_whatever_its_name() -> None:
    class PreNormLayer(nn.Sequential):
        """As every module of RoBERTa-PreLayerNorm is called."""

    model = tiny_model()
    layer = model.backbone.get_submodule("layer.1")
    layer.ffn = PreNormLayer(*layer.ffn)
    assert not any(".ffn." in name for name in LayerNormsConfig().trainable(model, 1))
