"""What the command needs of its surroundings: streams that take any text, and a home folder for libraries."""

import io
import os
import sys
from pathlib import Path

#: The home of those who have none, as in Debian's password file.
NO_HOME = "/nonexistent"


def escape_what_streams_cannot_show() -> None:
    """Let standard output and standard error write characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ensure_home() -> None:
    """Set HOME where there is no home folder: libraries ask for one when they are imported, and fail."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME
