"""Device and precision are those of the experiment, run by run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phase_helpers import different, weights_of
from topwork.engine.training.accelerator import make_accelerator
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment, Training

Make = Callable[..., Experiment]


Train = Callable[..., Any]


@pytest.mark.slow
def test_the_precision_of_one_run_does_not_decide_that_of_the_next(make: Make, train: Train) -> None:
    before = weights_of(train(make()).model)
    train(make(training={"precision": "bfloat16"}))
    assert not different(before, weights_of(train(make()).model))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_accelerator(Training(device="cuda"))
    assert str(caught.value) == "training.device is cuda, but this machine offers cpu; use auto"
