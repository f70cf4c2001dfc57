"""Signals, and names of processes by which other processes can see whether they still run."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

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


def this_process() -> str:
    """Host, process number, start time, boot and PID namespace: together they never occur twice."""
    number = os.getpid()
    return ":".join([socket.gethostname(), str(number), _started(number), *_numbering()])


def is_dead_here(name: str) -> bool:
    """Whether a process is known to be gone. Of those that another kernel or PID namespace numbers nothing is known."""
    parts = name.split(":")
    if len(parts) != 5 or parts[3:] != _numbering():  # fewer parts were written by an earlier version
        return False
    number, started = parts[1:3]
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        pass  # it is another user's
    try:
        return _started(int(number)) != started or psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False  # it may not be looked at


def _numbering() -> list[str]:
    """The boot and the PID namespace in which this process has its number. Hosts' names say neither: containers on
    the host's network share one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return [boot, Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")]
    except OSError:  # not Linux
        return [f"{socket.gethostname()} {psutil.boot_time():.0f}", ""]


def _started(number: int) -> str:
    """When a process started, on a clock that nobody sets: on Linux in ticks since the boot.

    Raises:
        psutil.NoSuchProcess: there is none of that number.
    """
    if not sys.platform.startswith("linux"):
        return f"{psutil.Process(number).create_time():.2f}"
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        raise psutil.NoSuchProcess(number) from None
    return fields[19]  # field 22 of proc(5), of which the name in parentheses is the second
