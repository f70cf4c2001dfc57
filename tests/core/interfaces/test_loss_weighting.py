"""What a loss weighting must give, and what it need not."""

import pytest
import torch

from topwork.interfaces.loss_weighting import GradientWeighting, LossWeighting, LossWeightingConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig


def test_the_settings_of_a_loss_weighting_build_it() -> None:
    assert LossWeightingConfig.__abstractmethods__ == {"build"}
    assert UncertaintyConfig().named_tasks() == ()


@pytest.mark.parametrize("base", [LossWeighting, GradientWeighting])
def test_a_weighting_says_what_it_makes_of_losses_or_gradients(base: type) -> None:
    assert base.__abstractmethods__ == {"forward"}


def test_a_weighting_is_told_of_epochs_and_steps_without_having_to_listen() -> None:
    weighting = UncertaintyConfig().build(["a", "b"])
    assert isinstance(weighting, LossWeighting)
    before = {name: tensor.clone() for name, tensor in weighting.state_dict().items()}
    weighting.end_epoch({"a": 1.0})
    weighting.after_step({"a": torch.tensor(1.0)})
    assert not weighting.reads_losses_after_step
    assert all(torch.equal(before[name], tensor) for name, tensor in weighting.state_dict().items())
