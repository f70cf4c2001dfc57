"""The last real token stands for the text."""

import torch

from topwork_plugins.poolings.last import LastConfig


def test_the_last_hidden_state_under_the_mask_is_taken() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [float("nan"), float("nan")]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert LastConfig().build(2)(hidden, mask).tolist() == [[3.0, 4.0], [5.0, 6.0]]


def test_padding_on_the_left_is_passed_over_too() -> None:
    hidden = torch.arange(6.0).reshape(2, 3, 1)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    assert LastConfig().build(1)(hidden, mask).tolist() == [[2.0], [5.0]]


def test_the_gradient_reaches_the_last_token_alone() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    LastConfig().build(4)(hidden, torch.tensor([[True, True, False]])).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0].tolist() == [[0.0] * 4, [1.0] * 4, [0.0] * 4]
