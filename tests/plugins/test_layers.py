"""Layers are named by their numbers, or embeddings."""

import pytest
from pydantic import ValidationError

from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig


@pytest.mark.parametrize("layer", ["last", "0", 1.0, True, None])
def test_what_names_no_layer_is_refused(layer: object) -> None:
    with pytest.raises(ValidationError, match="a layer is its number from 0, or from -1 backwards, or embeddings"):
        LayerMixConfig(layers=(0, layer))  # type: ignore[arg-type]  # which is what is tried


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        LayerMixConfig(layers=())


def test_a_pooling_that_names_no_layer_is_written_as_it_always_was() -> None:
    assert ClsConfig().model_dump(mode="json") == {"kind": "cls"}
    assert ClsConfig(layer=3).model_dump(mode="json") == {"kind": "cls", "layer": 3}
    assert ClsConfig(layer="embeddings").build(4).layers == ("embeddings",)
    assert ClsConfig().build(4).layers == ()
