"""Several observers as one, of which none can do harm."""

import copy
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from topwork.engine.observer import EncodingReport, Epoch, Observer, TrainingStep
from topwork.errors import ConfigurationError, TopworkError, describe, quote
from topwork.registry import ChangedSettingsError, line_in_package, unchanged_torch_settings

logger = logging.getLogger(__name__)


#: What ``train`` and ``resume`` take.
Observing = Observer | Sequence[Observer] | None


class Observers(Observer):
    """Calls each of several observers; one that fails is told of, and not called again."""

    def __init__(self, observers: Observing) -> None:
        """Take observers.

        Raises:
            ConfigurationError: something else is given.
        """
        given: list[object] = list(observers) if isinstance(observers, list | tuple) else [observers or Observer()]
        self.observers = [one for one in given if isinstance(one, Observer)]
        if others := [quote(one) for one in given if not isinstance(one, Observer)]:
            told = "an observer is an object of a subclass of topwork.Observer"
            raise ConfigurationError(f"{told}, got {others[0]}; give one, or a list of some")
        self._model: nn.Module | None = None

    @property
    def every_step(self) -> bool:  # type: ignore[override]  # what is written there is read here
        """Whether one of them wants to see each step."""
        return any(self._asks_for_steps(one) for one in list(self.observers))

    @property
    def stop_reason(self) -> str:  # type: ignore[override]  # as above
        """The first reason that one of them gives."""
        return next((reason for one in list(self.observers) if (reason := self._reason_of(one))), "")

    def run(self, name: str) -> None:
        for observer in self.observers:
            if observer.__dict__.get("stop_reason"):  # of the training before
                observer.stop_reason = ""
        self._call("run", name)

    def begin(self, phase: str, total: int) -> None:
        self._call("begin", phase, total)

    def advance(self, done: int) -> None:
        self._call("advance", done)

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        self._call("resumed", copy.deepcopy(epochs), steps)

    def encoded(self, report: EncodingReport) -> None:
        self._call("encoded", report)

    def start(self, model: nn.Module) -> None:
        self._model = model
        self._call("start", model)

    def step(self, step: TrainingStep) -> None:
        self._call("step", copy.deepcopy(step))

    def epoch(self, epoch: Epoch) -> None:
        self._call("epoch", copy.deepcopy(epoch))

    def end(self, best_epoch: int, metrics: Mapping[str, float]) -> None:
        self._call("end", best_epoch, metrics)

    def _call(self, event: str, *arguments: object) -> None:
        """Call one method of all, and put back what they must not change: random numbers, settings, the model's mode.

        Raises:
            TopworkError: one of them raises it, to end the run.
        """
        for observer in list(self.observers):
            method = getattr(observer, event)
            if isinstance(observer, Observers):  # it sees to its own
                method(*arguments)
                continue
            ignored = getattr(method, "__func__", None) is getattr(Observer, event)
            if ignored or (event == "step" and not self._asks_for_steps(observer)):
                continue
            random, trains = torch.get_rng_state(), self._model is not None and self._model.training
            try:
                with unchanged_torch_settings():
                    method(*arguments)
                if self._model is not None and self._model.training != trains:
                    self._model.train(trains)
                    raise ChangedSettingsError("it changes the model's mode, which is train() or eval()")
            except TopworkError as error:
                if not isinstance(error, ChangedSettingsError):
                    raise
                self._leave_out(observer, event, error)
            except Exception as error:  # an observer may raise anything
                self._leave_out(observer, event, error)
            finally:
                torch.set_rng_state(random)

    def _asks_for_steps(self, observer: Observer) -> bool:
        """Whether one wants to see each step; it may be a property, and fail."""
        try:
            return bool(observer.every_step)
        except Exception as error:  # as above
            self._leave_out(observer, "every_step", error)
            return False

    def _reason_of(self, observer: Observer) -> str:
        """Why one wants training to end; as above."""
        try:
            return str(observer.stop_reason) if observer.stop_reason else ""
        except Exception as error:  # as above
            self._leave_out(observer, "stop_reason", error)
            return ""

    def _leave_out(self, observer: Observer, event: str, error: Exception) -> None:
        """Tell of one that fails, and do not call it again."""
        kind = type(observer)
        where = line_in_package(error, kind.__module__) or kind.__module__
        told = "observer %s failed in %s: %s (%s); the run goes on without it"
        logger.warning(told, kind.__qualname__, event, describe(error), where)
        self.observers.remove(observer)
