"""Signals, and names of processes by which other processes can see whether they still run."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
