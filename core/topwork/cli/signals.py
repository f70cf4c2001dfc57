"""Ctrl-C and SIGTERM end a command wherever they arrive."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

#: Seconds until a signal that was dropped is sent again: by then the finalizer that it met is over.
LATER = 0.05


@contextmanager
def resend_dropped_signals() -> Iterator[None]:
    """Send a signal again that arrived in a finalizer or a callback, where Python drops what its handler raises."""
    before = sys.unraisablehook

    def send_again(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            number = int(signal.SIGINT)
        elif isinstance(dropped.exc_value, SystemExit) and dropped.exc_value.code in (129, 143):  # exit_on_sigterm's
            number = dropped.exc_value.code - 128
        else:
            before(dropped)
            return
        timer = Timer(LATER, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
