"""A command that torchrun runs in several processes, of which the main one prints."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from topwork.errors import ConfigurationError
from topwork.torchrun import process_here

#: The commands that several processes carry out together.
TOGETHER = ("train", "resume", "encode-corpus")

#: Seconds after which a process that fails prints why. Where the main one fails too, torchrun has ended it by then.
GRACE = 10.0


def check_command(name: str | None) -> None:
    """Check that a command may be run with torchrun.

    Raises:
        ConfigurationError: each process would do all of it again.
    """
    count, _ = process_here()
    if count > 1 and name is not None and name not in TOGETHER:
        several = "; for several workers set study.workers, or run it on several machines" if name == "study" else ""
        raise ConfigurationError(
            f"topwork {name} cannot be run with torchrun: each of {count} processes would do all of it; run it without"
            f"{several}"
        )


@contextmanager
def main_process_prints() -> Iterator[None]:
    """Let the main process alone print what the block prints; where another one fails alone, it says why at the end."""
    count, number = process_here()
    if count > 1:  # torch is not imported yet; its warning that all heads had labels in the first step is no news
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if number == 0:
        yield
        return
    streams, said = (sys.stdout, sys.stderr), io.StringIO()
    sys.stdout, sys.stderr = io.StringIO(), said
    try:
        yield
    except SystemExit as error:
        sys.stdout, sys.stderr = streams
        if isinstance(error.code, int) and 0 < error.code < 128:  # not ended by a signal
            time.sleep(GRACE)
            print(*(f"process {number}: {line}" for line in said.getvalue().splitlines()), sep="\n", file=sys.stderr)
        raise
    finally:
        sys.stdout, sys.stderr = streams
