"""Name processes so that it can be told later, and by others, whether they live."""

import socket

import psutil


def this_process() -> str:
    """Host, process number and start time: together they never occur twice."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_dead_here(name: str) -> bool:
    """Whether a process of this host is gone; of other hosts' processes that cannot be told."""
    host, _, rest = name.partition(":")
    number, _, started = rest.partition(":")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.2f}" != started or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return True
