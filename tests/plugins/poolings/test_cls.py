"""The first token stands for the text."""

import torch

from topwork_plugins.poolings.cls import ClsConfig


def test_the_first_hidden_state_is_taken_whatever_the_others_are() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [float("nan"), float("nan")]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert ClsConfig().build(2)(hidden, mask).tolist() == [[1.0, 2.0], [5.0, 6.0]]


def test_the_gradient_reaches_the_first_token_alone() -> None:
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    ClsConfig().build(4)(hidden, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad[:, 0], torch.ones(2, 4))
    assert not hidden.grad[:, 1:].any()


def test_the_width_is_that_of_the_hidden_states_and_one_token_is_read() -> None:
    pooling = ClsConfig().build(384)
    assert pooling.width == 384
    assert pooling.reads_first_token_only
    assert list(pooling.parameters()) == []
