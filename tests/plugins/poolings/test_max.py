"""The largest number of each column of the real tokens."""

import torch

from topwork_plugins.poolings.max import MaxConfig


def test_each_column_has_its_own_largest_and_padding_has_no_part() -> None:
    hidden = torch.tensor([[[-1.0, -5.0], [-3.0, -2.0], [9.0, 9.0]]])
    assert MaxConfig().build(2)(hidden, torch.tensor([[True, True, False]])).tolist() == [[-1.0, -2.0]]


def test_the_gradient_reaches_the_tokens_with_the_largest_numbers() -> None:
    hidden = torch.tensor([[[1.0, 5.0], [3.0, 2.0]]], requires_grad=True)
    MaxConfig().build(2)(hidden, torch.ones(1, 2, dtype=torch.bool)).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0].tolist() == [[0.0, 1.0], [1.0, 0.0]]
