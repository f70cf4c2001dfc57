"""A mean in which the n-th real token counts n times."""

import torch

from topwork_plugins.poolings.weighted_mean import WeightedMeanConfig


def test_the_nth_token_counts_n_times() -> None:
    hidden = torch.tensor([[[6.0], [12.0], [18.0]], [[3.0], [9.0], [99.0]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    pooled = WeightedMeanConfig().build(1)(hidden, mask)
    torch.testing.assert_close(pooled, torch.tensor([[(6 + 24 + 54) / 6], [(3 + 18) / 3]]))


def test_padding_on_the_left_is_not_counted() -> None:
    hidden = torch.tensor([[[99.0], [3.0], [9.0]]])
    assert WeightedMeanConfig().build(1)(hidden, torch.tensor([[False, True, True]])).tolist() == [[7.0]]
