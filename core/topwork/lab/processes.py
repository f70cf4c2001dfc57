"""Signals: when they end a training, and when they wait."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from topwork.engine.training.checkpoints import StopRequest


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that what is open gets closed; afterwards all is as it was.

    A handler that was there is called first. A SIGHUP that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def leave(number: int, frame: FrameType | None) -> None:
        if callable(handler := before[number]):
            handler(number, frame)
        raise SystemExit(128 + number)

    asked = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {int(number): signal.getsignal(number) for number in asked}
    for number in asked:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for was, handler in before.items():
            signal.signal(was, handler)


class StopSignals(StopRequest):
    """Lets Ctrl-C, SIGTERM and SIGHUP wait until a training can be written down; a second one ends it at once.

    A signal that is ignored stays so.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._before: dict[int, Any] = {}

    @contextmanager
    def deferred(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._before = {
            number: handler for number in asked if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
        }
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            self._let_through()
        if self._arrived is not None:
            self.obey()

    def is_made(self) -> bool:
        return self._arrived is not None

    def obey(self) -> None:
        """Let the signal do what it would have done at once; where another process got it, as SIGTERM would."""
        number, self._arrived = self._arrived or signal.SIGTERM, None
        self._let_through()
        signal.raise_signal(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)  # who asks must be obeyed

    def _note(self, number: int, frame: object) -> None:
        if self._arrived is None:
            self._arrived = number
        else:
            self.obey()

    def _let_through(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def defer_signals() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and SIGHUP until the block ends: a database must not be left in the middle of a step."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    arrived: list[int] = []
    handlers = {asked: signal.getsignal(asked) for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for asked, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(asked, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for asked, handler in handlers.items():
            signal.signal(asked, handler)
        for number in arrived[:1]:
            os.kill(os.getpid(), number)
