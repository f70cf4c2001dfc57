"""When a training is written down, so that it can go on from there."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import torch

from topwork.engine.data_parallel import Processes
from topwork.engine.training.checkpoint_folder import CheckpointFolder, read_checkpoint
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
        """Raise what ends the training, also where it was another process of it that was asked."""


class Checkpoints:
    """Writes checkpoints of a training when they are due, and reads the newest.

    One is due between two steps when ``minutes`` have passed since the last one; at the end of an epoch, when so much
    time has passed that writing it takes no more than 1 % of that; and when the training is asked to stop.

    Args:
        folder: where they are; None for no checkpoints at all.
        minutes: between two of them within an epoch; None for no checkpoints at all.
        stop: says whether the training is asked to stop.
        worthwhile: seconds of training that may be lost: there is no checkpoint before these are over.
        processes: that train together. The main one writes; all of them call each method.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None = None,
        minutes: float | None = None,
        *,
        stop: StopRequest | None = None,
        worthwhile: float = 0.0,
        processes: Processes | None = None,
    ) -> None:
        self._folder = None if minutes is None else folder
        self._period = 60 * (minutes or 0.0)
        self._stop = stop or StopRequest()
        self._worthwhile = worthwhile
        self._processes = processes or Processes()
        self._begun = self._last = perf_counter()
        self._cost: float | None = None

    def load(self) -> Mapping[str, Any] | None:
        """Return the newest state that can be read; None where there is none.

        Raises:
            UnrecoverableError: there are checkpoints, and none can be read.
            StorageError: they were written by a newer topwork.
        """
        if self._folder is None:
            return None
        saved = self._folder.load() if self._processes.is_main else None
        # by then the main process has put aside what is damaged
        name = self._processes.told_by_main(self._folder.paths()[0].name if saved else None)
        if name and not self._processes.is_main:
            saved = read_checkpoint(self._folder.path / name)
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
        started = perf_counter()
        asked, late, worthwhile = self._agree(
            self._stop.is_made(), started - self._last >= seconds, started - self._begun >= self._worthwhile
        )
        if self._folder and (asked or late) and worthwhile:
            self._save(self._folder, state)
            self._last = perf_counter()
            self._cost = self._last - started
        if asked:
            self._stop.obey()

    def _agree(self, asked: bool, late: bool, worthwhile: bool) -> tuple[bool, bool, bool]:
        """Let all processes stop where one of them is asked to, and go by the main one's clock."""
        if self._processes.count == 1:
            return asked, late, worthwhile
        said = [asked, late and self._processes.is_main, worthwhile and self._processes.is_main]
        asked, late, worthwhile = map(bool, self._processes.sum(torch.tensor(said, dtype=torch.int64)).tolist())
        return asked, late, worthwhile

    def _save(self, folder: CheckpointFolder, state: TrainingState) -> None:
        values = state.state_dict()
        if not self._processes.is_main:
            return
        try:
            folder.save(state.epoch, state.partial.steps, values)
        except StorageError as error:  # which is no reason to end the training
            logger.warning("no checkpoint was written, and those before it are untouched: %s", error)
