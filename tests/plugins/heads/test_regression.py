"""The numbers of the head for real numbers."""

import pytest
import torch
from torch import nn

import topwork
from topwork_plugins.heads.regression import RegressionConfig

ONE = topwork.Numbers(("score",), mean=(2.5,), scale=(2.0,))
TWO = topwork.Numbers(("x", "y"), mean=(2.5, -30.0), scale=(2.0, 10.0))


def test_a_head_without_weights_predicts_the_mean_of_the_training_rows() -> None:
    head = RegressionConfig(hidden=()).build(8, TWO)
    nn.init.zeros_(head.module[0][0].weight)
    nn.init.zeros_(head.module[0][0].bias)
    assert head.module(torch.randn(3, 8)).tolist() == [[2.5, -30.0]] * 3


@pytest.mark.parametrize(
    ("loss", "wanted"), [("mse", (0.25 + 4.0) / 2), ("mae", (0.5 + 2.0) / 2), ("huber", (0.125 + 1.5) / 2)]
)
def test_the_loss_is_of_errors_in_standard_deviations(loss: str, wanted: float) -> None:
    head = RegressionConfig(loss=loss).build(8, TWO)
    found = head.loss(torch.tensor([[3.5, -10.0]]), torch.tensor([[2.5, -30.0]]))
    assert found.item() == pytest.approx(wanted)


def test_a_number_is_decoded_as_it_is_and_several_by_their_names() -> None:
    assert list(RegressionConfig().build(8, ONE).decode(torch.tensor([[1.5]])).labels) == [1.5]
    decoded = RegressionConfig().build(8, TWO).decode(torch.tensor([[1.5, -2.0]]))
    assert list(decoded.labels) == [{"x": 1.5, "y": -2.0}]
    assert decoded.probabilities is None
