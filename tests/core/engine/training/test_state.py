"""The state of a training is all that changes in it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoint_helpers import StopAt, StoppedError, assert_same
from topwork.engine.preparation import prepare
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.state import TrainingState, check_same_shapes
from topwork.engine.training.stopping import make_stopping
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.loss_weightings.torchjd import TorchJdConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

#: What stays as the settings say, or belongs to the model.
NOT_STATE = {"model", "optimizer", "tasks", "_trained"}


class Watched(Checkpoints):
    """Looks at what a training is made of when it stops."""

    found: TrainingState | None = None

    def step_done(self, state: TrainingState) -> None:
        self.found = state
        super().step_done(state)

    def epoch_done(self, state: TrainingState) -> None:
        self.found = state
        super().epoch_done(state)


def attributes(value: object) -> object:
    """All that an object of this project holds, and the objects in it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(dict(value.state_dict()))
    if type(value).__module__.startswith("topwork.engine") and hasattr(value, "__dict__"):
        return {name: attributes(one) for name, one in vars(value).items() if name not in NOT_STATE}
    if isinstance(value, dict):
        return {name: attributes(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [attributes(one) for one in value]
    return copy.deepcopy(value)


def fresh_state(experiment: Experiment) -> TrainingState:
    """The state of a training that has not begun."""
    ready = prepare(experiment)
    stopping = make_stopping(ready.monitors, ready.model.tasks, ["sentiment", "category"], ready.plan.shapes)
    return TrainingState(ready.model, ready.plan.shapes, ready.weighting, stopping)


@pytest.mark.parametrize("moment", [3, 6, 9], ids=["in an epoch", "at the end of one", "in the next"])
@pytest.mark.parametrize("stop", ["together", "per_task"])
def test_nothing_that_changes_in_a_training_is_missing_in_its_state(
    make: Make, train: Train, tmp_path: Path, stop: str, moment: int
) -> None:
    training = {"epochs": 3, "stop": stop, "patience": 1, "gradient_batches": 5}
    experiment = make(training=training, freeze=NoneConfig(), weighting=UncertaintyConfig())
    folder = CheckpointFolder(tmp_path / "checkpoints")
    watched = Watched(folder, 1000.0, stop=StopAt(moment))
    with pytest.raises(StoppedError):
        train(experiment, checkpoints=watched)
    assert watched.found is not None
    before = attributes(watched.found)
    restored, written = fresh_state(experiment), folder.load()
    assert written is not None
    restored.load_progress(written)
    restored.load_moments(written)
    after = attributes(restored)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert bool(after["_random"]) == bool(after["partial"]["steps"])  # they are used up where steps go on
    for one in (before, after):
        one.pop("_random")
    assert_same(before, after)
    assert restored.epoch > 1 or restored.partial.gradients


def test_a_state_of_another_weighting_is_refused(make: Make, tmp_path: Path) -> None:
    written = fresh_state(make(weighting=UncertaintyConfig())).state_dict()
    other = fresh_state(make(weighting=TorchJdConfig(scalarizer="UW")))
    with pytest.raises(StorageError, match="the checkpoint is of another weighting: "):
        other.load_moments(written)


def test_moments_of_what_does_not_train_are_refused(make: Make) -> None:
    state = fresh_state(make())
    with pytest.raises(StorageError, match="the checkpoint has moments of a, b, which do not train"):
        state.load_moments(state.state_dict() | {"optimizer": {"b": {}, "a": {}}})


def test_other_shapes_and_names_are_named() -> None:
    with pytest.raises(StorageError, match="the checkpoint's things are those of another model: a, b, c"):
        check_same_shapes(
            "things",
            {"a": torch.zeros(2), "b": torch.zeros(1), "same": torch.zeros(3)},
            {"a": torch.zeros(3), "c": torch.zeros(1), "same": torch.zeros(3)},
        )
