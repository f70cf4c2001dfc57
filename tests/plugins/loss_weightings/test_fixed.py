"""The weighted sum."""

import pytest
import torch
from pydantic import ValidationError

from topwork_plugins.loss_weightings.fixed import FixedConfig


def test_the_total_is_the_weighted_sum_of_the_losses_there_are() -> None:
    weighting = FixedConfig(weights={"b": 0.25}).build(["a", "b", "c"])
    losses = {name: torch.tensor(value, requires_grad=True) for name, value in (("a", 1.5), ("b", 8.0))}
    total = weighting(losses)
    assert total.item() == 3.5
    total.backward()
    assert [float(loss.grad) for loss in losses.values()] == [1.0, 0.25]


def test_settings_may_name_tasks_that_are_not_trained() -> None:
    config = FixedConfig(weights={"b": 0.25})
    assert list(config.named_tasks()) == ["b"]
    assert float(config.build(["a"])({"a": torch.tensor(2.0)})) == 2.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), True, "2"], ids=repr)
def test_a_weight_is_a_finite_number_above_0(value: object) -> None:
    with pytest.raises(ValidationError, match="weights"):
        FixedConfig(weights={"a": value})
