"""Signals, and names of processes by which other processes can see whether they still run."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that what is open gets closed; afterwards all is as it was.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    asked = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """Host, process number and start time: together they never occur twice."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_dead_here(name: str) -> bool:
    """Whether a process of this host is gone; of other hosts' processes that is not known."""
    host, _, rest = name.partition(":")
    number, _, started = rest.partition(":")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.2f}" != started or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return True
