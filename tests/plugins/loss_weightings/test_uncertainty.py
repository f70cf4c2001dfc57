"""Factors that are learnt with the model."""

import math

import pytest
import torch
from torchjd.scalarization import UW

from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig

TASKS = ["a", "b", "c"]


def test_over_many_steps_it_is_what_another_implementation_gives() -> None:
    ours, theirs = UncertaintyConfig(learning_rate=0.05).build(TASKS), UW(3)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.05, weight_decay=0.0) for one in (ours, theirs)]
    for step in range(50):
        losses = torch.tensor([0.5, 2.0, 4.0]) / (1 + step / 10)
        totals = ours(dict(zip(TASKS, losses, strict=True))), theirs(losses)
        assert totals[0].item() == pytest.approx(totals[1].item(), abs=1e-6)
        for optimizer, total in zip(optimizers, totals, strict=True):
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    torch.testing.assert_close(ours.log_variances, theirs.log_var, atol=1e-6, rtol=0)


def test_factors_begin_with_a_half() -> None:
    loss = torch.tensor(3.0, requires_grad=True)
    total = UncertaintyConfig().build(TASKS)({"b": loss})
    assert total.item() == 1.5
    assert float(torch.autograd.grad(total, loss)[0]) == 0.5


def test_a_constant_loss_is_weighted_by_its_inverse_in_the_end() -> None:
    weighting = UncertaintyConfig(learning_rate=0.1).build(["a"])
    assert weighting.learning_rate == 0.1
    optimizer = torch.optim.Adam(weighting.parameters(), lr=weighting.learning_rate)
    for _ in range(500):
        optimizer.zero_grad()
        weighting({"a": torch.tensor(4.0)}).backward()
        optimizer.step()
    assert weighting.log_variances.item() == pytest.approx(math.log(4.0), abs=1e-3)


def test_a_task_without_rows_keeps_its_variance() -> None:
    weighting = UncertaintyConfig().build(TASKS)
    weighting({"a": torch.tensor(3.0)}).backward()
    assert weighting.log_variances.grad[1:].tolist() == [0.0, 0.0]
