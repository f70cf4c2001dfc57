"""A pooling says how wide its vectors are, and reads all tokens unless it says otherwise."""

import pytest
import torch
from torch import Tensor

from topwork.interfaces.pooling import Pooling, PoolingConfig


class LastToken(Pooling):
    """Takes the last real token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[torch.arange(len(hidden)), mask.sum(dim=1) - 1]


def test_a_pooling_is_called_with_hidden_states_and_mask() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert LastToken(2)(hidden, mask).tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_a_pooling_reads_all_tokens_unless_it_says_otherwise() -> None:
    assert not LastToken(2).reads_first_token_only


def test_a_pooling_without_a_forward_pass_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="forward"):
        type("Incomplete", (Pooling,), {})()


def test_the_settings_of_a_pooling_build_it() -> None:
    assert PoolingConfig.__abstractmethods__ == {"build"}
