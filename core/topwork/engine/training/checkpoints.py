"""When a training is written down, so that it can go on from there."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.engine.training.state import TrainingState
from topwork.errors import StorageError

#: The share of the time that checkpoints at the ends of epochs may take.
SHARE = 0.01

#: Seconds that a byte is taken to need, until there is a checkpoint by which to tell.
SECONDS_PER_BYTE = 1 / 200e6

logger = logging.getLogger(__name__)


class StopRequest:
    """Says whether a training was asked to stop; this one never is."""

    def deferred(self) -> AbstractContextManager[None]:
        """Let the block go on for now where it is asked to stop; who trains in it looks at ``is_made``."""
        return nullcontext()

    def is_made(self) -> bool:
        """Whether the training was asked to stop."""
        return False

    def obey(self) -> None:
        """Raise what ends the training."""


class Checkpoints:
    """Writes checkpoints of a training when they are due, and reads the newest.

    One is due between two steps when ``minutes`` have passed since the last one; at the end of an epoch, when so much
    time has passed that writing it takes no more than 1 % of that; and when the training is asked to stop.

    Args:
        folder: where they are; None for no checkpoints at all.
        minutes: between two of them within an epoch; None for no checkpoints at all.
        stop: says whether the training is asked to stop.
        worthwhile: seconds of training that may be lost: there is no checkpoint before these are over.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None = None,
        minutes: float | None = None,
        *,
        stop: StopRequest | None = None,
        worthwhile: float = 0.0,
    ) -> None:
        self._folder = None if minutes is None else folder
        self._period = 60 * (minutes or 0.0)
        self._stop = stop or StopRequest()
        self._worthwhile = worthwhile
        self._begun = self._last = perf_counter()
        self._cost: float | None = None

    def load(self) -> Mapping[str, Any] | None:
        """Return the newest state that can be read; None where there is none.

        Raises:
            UnrecoverableError: there are checkpoints, and none can be read.
            StorageError: they were written by a newer topwork.
        """
        saved = self._folder.load() if self._folder else None
        if saved:
            self._worthwhile = 0.0
        return saved

    def start(self) -> None:
        """Begin to count the time: all before it was no training."""
        self._begun = self._last = perf_counter()

    def stopping_after_steps(self) -> AbstractContextManager[None]:
        """Let the block come to the end of a step where the training is asked to stop."""
        return self._stop.deferred()

    def step_done(self, state: TrainingState) -> None:
        """Write a checkpoint within an epoch if one is due; and stop if that was asked."""
        self._save_after(self._period, state)

    def epoch_done(self, state: TrainingState) -> None:
        """Write a checkpoint at the end of an epoch if one is due; and stop if that was asked."""
        if self._cost is None:
            self._cost = state.size * SECONDS_PER_BYTE
        self._save_after(min(self._period, self._cost / SHARE), state)

    def _save_after(self, seconds: float, state: TrainingState) -> None:
        asked, started = self._stop.is_made(), perf_counter()
        due = asked or started - self._last >= seconds
        if self._folder and due and started - self._begun >= self._worthwhile:
            try:
                self._folder.save(state.epoch, state.partial.steps, state.state_dict())
            except StorageError as error:  # which is no reason to end the training
                logger.warning("no checkpoint was written, and those before it are untouched: %s", error)
            self._last = perf_counter()
            self._cost = self._last - started
        if asked:
            self._stop.obey()
