"""The mean of the real tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topwork_plugins.poolings.mean import MeanConfig

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def test_real_tokens_are_averaged_and_padding_is_not() -> None:
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [99.0, 99.0]], [[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]]])
    pooled = MeanConfig().build(2)(hidden, mask_of([2, 3]))
    assert pooled.tolist() == [[2.0, 20.0], [4.0, 5.0]]


@pytest.mark.slow
@given(LENGTHS, st.integers(0, 2**32))
def test_each_text_gives_the_mean_of_its_own_tokens(lengths: list[int], seed: int) -> None:
    mask = mask_of(lengths)
    hidden = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(seed))
    wanted = torch.stack([vectors[:length].mean(dim=0) for vectors, length in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(MeanConfig().build(4)(hidden, mask), wanted)


def test_the_first_and_last_token_count_like_any_other() -> None:
    hidden = torch.zeros(1, 4, 1)
    hidden[0, 0, 0], hidden[0, 3, 0] = 4.0, 8.0
    assert MeanConfig().build(1)(hidden, mask_of([4])).tolist() == [[3.0]]


def test_a_single_token_stands_for_itself() -> None:
    hidden = torch.tensor([[[1.5, -2.5], [7.0, 7.0]]])
    mask = torch.tensor([[True, False]])
    assert MeanConfig().build(2)(hidden, mask).tolist() == [[1.5, -2.5]]


def test_no_gradient_reaches_padding() -> None:
    hidden = torch.ones(2, 3, 2, requires_grad=True)
    MeanConfig().build(2)(hidden, mask_of([1, 3])).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(hidden.grad[1], torch.full((3, 2), 1 / 3))


def test_the_width_is_that_of_the_hidden_states_and_all_tokens_are_read() -> None:
    pooling = MeanConfig().build(384)
    assert pooling.width == 384
    assert not pooling.reads_first_token_only
    assert list(pooling.parameters()) == []
