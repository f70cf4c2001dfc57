"""The norms and cosines of the tasks' gradients are those of the losses, and looking at them changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phase_helpers import weights_of
from topwork.engine.preparation import prepare
from topwork.engine.training.gradients import GradientStatistics, chosen_batches
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork_plugins.freeze_strategies.all import AllConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]


@pytest.mark.parametrize(("count", "batches"), [(0, 5), (1, 5), (5, 5), (9, 3), (3, 100)])
def test_batches_are_drawn_from_a_seed(count: int, batches: int) -> None:
    drawn = chosen_batches(count, batches, 7)
    assert len(drawn) == min(count, batches)
    assert drawn <= set(range(1, batches + 1))
    assert drawn == chosen_batches(count, batches, 7)


def test_cosines_and_norms_are_means_over_the_batches_that_have_them() -> None:
    statistics = GradientStatistics({})
    statistics.add({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([-6.0, -8.0])})
    statistics.add({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 2.0]), "c": torch.tensor([1.0, 1.0])})
    statistics.add({"a": torch.zeros(2), "b": torch.tensor([0.0, 3.0])})
    assert statistics.means() == pytest.approx(
        {
            "gradient_norm/a": 2.0,
            "gradient_norm/b": 5.0,
            "gradient_norm/c": 2**0.5,
            "gradient_cosine/a/b": -0.5,
            "gradient_cosine/a/c": 0.5**0.5,
            "gradient_cosine/b/c": 0.5**0.5,
        }
    )
    assert GradientStatistics({}).means() == {}


def test_looking_at_gradients_does_not_change_training_by_one_bit(make: Make, train: Train) -> None:
    plain, watched = train(make()), train(make(training={"gradient_batches": 2, "accumulation": 2}))
    once = train(make(training={"accumulation": 2}))
    first, second = weights_of(watched.model), weights_of(once.model)
    assert all(torch.equal(first[name], second[name]) for name in first)
    names = {"gradient_norm/sentiment", "gradient_norm/category", "gradient_cosine/sentiment/category"}
    for epoch in watched.fit.epochs:
        assert {name for name in epoch.metrics if name.startswith("gradient_")} == names
        assert -1 <= epoch.metrics["gradient_cosine/sentiment/category"] <= 1
    assert not [name for name in plain.fit.epochs[0].metrics if name.startswith("gradient_")]


def test_nothing_shared_that_trains_has_no_gradients_to_compare(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(training={"gradient_batches": 1}, freeze=AllConfig()))
    assert str(caught.value) == (
        "training.gradient_batches: the tasks' gradients are compared by the parameters that they share, but none of "
        "these train: the backbone is frozen, and the pooling has none; let some train (freeze), or set this to 0"
    )
