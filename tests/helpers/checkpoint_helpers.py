"""Trainings that are interrupted, and all that they depend on after each step."""

import copy
from typing import Any

import torch
from torch import Tensor

from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.checkpoints import Checkpoints, StopRequest
from topwork.engine.training.state import TrainingState


class StoppedError(BaseException):
    """The training was asked to stop."""


class StopAt(StopRequest):
    """Asks to stop the so many-th time that it is looked at."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def is_made(self) -> bool:
        self.left -= 1
        return self.left == 0

    def obey(self) -> None:
        raise StoppedError


class Recording(Checkpoints):
    """Copies the state at each moment at which a checkpoint could be written; writes none."""

    def __init__(self, folder: CheckpointFolder | None = None) -> None:
        super().__init__(folder, 1000.0 if folder else None)
        self.states: list[dict[str, Any]] = []

    def step_done(self, state: TrainingState) -> None:
        self.states.append(timeless(copy.deepcopy(state.state_dict())))

    def epoch_done(self, state: TrainingState) -> None:
        self.step_done(state)


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    """Leave out how long it took, in which no two runs are equal."""
    state["partial"].pop("seconds")
    for epoch in state["epochs"]:
        epoch.pop("texts_per_second")
    return state


def assert_same(some: object, other: object, where: str = "state") -> None:
    """Check that two states are the same to the last bit."""
    if isinstance(some, Tensor):
        assert isinstance(other, Tensor), where
        assert some.dtype == other.dtype, where
        assert torch.equal(some.nan_to_num(), other.nan_to_num()), where
        assert torch.equal(some.isnan(), other.isnan()), where
    elif isinstance(some, dict):
        assert isinstance(other, dict), where
        assert some.keys() == other.keys(), where
        for name, value in some.items():
            assert_same(value, other[name], f"{where}.{name}")
    elif isinstance(some, list | tuple):
        assert isinstance(other, list | tuple), where
        assert len(some) == len(other), where
        for number, (one, another) in enumerate(zip(some, other, strict=True)):
            assert_same(one, another, f"{where}[{number}]")
    else:
        assert some == other or (some != some and other != other), where
