"""Names of processes by which other processes can see whether they still run."""

import os
import socket
import sys
from pathlib import Path

import psutil


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
