"""Factors by how fast losses fall."""

import pytest
import torch
from torchjd.scalarization import DWA

from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig

TASKS = ["a", "b", "c"]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_over_epochs_it_is_what_another_implementation_gives(temperature: float) -> None:
    ours, theirs = DynamicAverageConfig(temperature=temperature).build(TASKS), DWA(temperature)
    torch.manual_seed(0)
    for _ in range(6):
        batches = torch.rand(4, 3) + 0.1
        for losses in batches:
            total = float(ours(dict(zip(TASKS, losses, strict=True))))
            assert total == pytest.approx(float(theirs(losses)), abs=1e-6)
        ours.end_epoch(dict(zip(TASKS, batches.mean(dim=0).tolist(), strict=True)))
        theirs.step()


def test_a_loss_that_falls_slowly_gets_the_greater_factor() -> None:
    weighting = DynamicAverageConfig().build(["slow", "fast"])
    weighting.end_epoch({"slow": 1.0, "fast": 1.0})
    assert weighting.factors.tolist() == [1.0, 1.0]
    weighting.end_epoch({"slow": 0.9, "fast": 0.3})
    slow, fast = weighting.factors.tolist()
    assert slow > 1 > fast
    assert slow + fast == pytest.approx(2.0)


def test_a_task_without_rows_in_an_epoch_keeps_its_mean() -> None:
    weighting = DynamicAverageConfig().build(["a", "b"])
    for losses in ({"a": 1.0, "b": 1.0}, {"a": 0.5}, {"a": 0.25}):
        weighting.end_epoch(losses)
    assert weighting.factors.tolist() == [1.0, 1.0]  # b has the mean of one epoch only
    weighting.end_epoch({"a": 0.25, "b": 1.0})
    assert weighting.factors.tolist() == [1.0, 1.0]  # neither fell


def test_losses_of_0_change_nothing() -> None:
    weighting = DynamicAverageConfig().build(["a", "b"])
    for losses in ({"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}):
        weighting.end_epoch(losses)
        assert weighting.factors.tolist() == [1.0, 1.0]
