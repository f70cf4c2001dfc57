"""Several observers as one, of which none can do harm."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from topwork.engine.observer import EncodingReport, Epoch, Observer, TrainingStep
from topwork.errors import TopworkError, describe
from topwork.registry import line_in_package

logger = logging.getLogger(__name__)


#: What ``train`` and ``resume`` take.
Observing = Observer | Sequence[Observer] | None


class Observers(Observer):
    """Calls each of several observers; one that fails is told of, and not called again."""

    def __init__(self, observers: Observing) -> None:
        given = [] if observers is None else [observers] if isinstance(observers, Observer) else observers
        self.observers = list(given)

    @property
    def every_step(self) -> bool:  # type: ignore[override]  # what is written there is read here
        """Whether one of them wants to see each step."""
        return any(one.every_step for one in self.observers)

    @property
    def stop_reason(self) -> str:  # type: ignore[override]  # as above
        """The first reason that one of them gives."""
        return next((one.stop_reason for one in self.observers if one.stop_reason), "")

    def run(self, name: str) -> None:
        self._call("run", name)

    def begin(self, phase: str, total: int) -> None:
        self._call("begin", phase, total)

    def advance(self, done: int) -> None:
        self._call("advance", done)

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        self._call("resumed", epochs, steps)

    def encoded(self, report: EncodingReport) -> None:
        self._call("encoded", report)

    def start(self, model: nn.Module) -> None:
        self._call("start", model)

    def step(self, step: TrainingStep) -> None:
        self._call("step", step)

    def epoch(self, epoch: Epoch) -> None:
        self._call("epoch", epoch)

    def end(self, best_epoch: int, metrics: Mapping[str, float]) -> None:
        self._call("end", best_epoch, metrics)

    def _call(self, event: str, *arguments: object) -> None:
        """Call one method of all, and put random numbers back.

        Raises:
            TopworkError: one of them raises it, to end the run.
        """
        for observer in list(self.observers):
            if event == "step" and not observer.every_step:
                continue
            random = torch.get_rng_state()
            try:
                getattr(observer, event)(*arguments)
            except TopworkError:
                raise
            except Exception as error:  # an observer may raise anything
                kind = type(observer)
                where = line_in_package(error, kind.__module__) or "?"
                told = "observer %s failed in %s: %s (%s); the run goes on without it"
                logger.warning(told, kind.__qualname__, event, describe(error), where)
                self.observers.remove(observer)
            finally:
                torch.set_rng_state(random)
