"""A softmax of one number per layer weighs the layers, and one number scales the sum."""

import torch

from topwork_plugins.poolings.layer_mix import LayerMixConfig, LayerMixPooling

VECTORS = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]]])  # a text, three layers


def mix() -> LayerMixPooling:
    pooling = LayerMixConfig(layers=(0, 1, 2)).build(2)
    assert isinstance(pooling, LayerMixPooling)
    return pooling


def test_at_first_it_is_the_mean_of_the_layers() -> None:
    torch.testing.assert_close(mix().combine(VECTORS), torch.tensor([[3.0, 3.0]]))


def test_learnt_numbers_weigh_the_layers_and_scale_the_sum() -> None:
    pooling = mix()
    pooling.weights.data = torch.tensor([0.0, 0.0, torch.inf]).nan_to_num(posinf=1e4)
    pooling.scale.data = torch.tensor(2.0)
    assert pooling.combine(VECTORS).tolist() == [[10.0, 2.0]]


def test_both_get_gradients() -> None:
    pooling = mix()
    pooling.combine(VECTORS).square().sum().backward()
    assert pooling.weights.grad is not None
    assert pooling.weights.grad.any()
    assert pooling.scale.grad is not None
    assert pooling.scale.grad.any()


def test_each_layer_is_pooled_by_its_first_token_or_its_mean() -> None:
    hidden, mask = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert LayerMixConfig(each="cls").build(2)(hidden, mask).tolist() == [[1.0, 2.0]]
    assert LayerMixConfig(each="mean").build(2)(hidden, mask).tolist() == [[2.0, 3.0]]
    assert LayerMixConfig(each="cls").build(2).reads_first_token_only
    assert not LayerMixConfig(each="mean").build(2).reads_first_token_only
