"""The vectors of the layers stand one behind the other."""

import torch

from topwork_plugins.poolings.concat_layers import ConcatLayersConfig


def test_the_vectors_are_joined_in_the_order_of_the_layers() -> None:
    pooling = ConcatLayersConfig(layers=("embeddings", 3)).build(2)
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert pooling.width == 4
    assert pooling.layers == ("embeddings", 3)
    assert pooling.combine(vectors).tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_the_last_four_layers_are_read_by_default() -> None:
    pooling = ConcatLayersConfig().build(384)
    assert pooling.layers == (-4, -3, -2, -1)
    assert pooling.width == 4 * 384
    assert list(pooling.parameters()) == []
