"""Start processes that train together, as a user does."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def start(
    processes: int, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a command in a folder with torchrun; it prints to ``printed.txt`` there, and errors to ``errors.txt``."""
    given = ["--standalone", "--nproc-per-node", str(processes), *command]
    with (folder / "printed.txt").open("w") as printed, (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *given],
            cwd=folder,
            stdout=printed,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict(environment or {}),
        )


def run(
    processes: int, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command in a folder with torchrun; return its exit code, and what it printed, errors apart."""
    folder.mkdir(exist_ok=True)
    code = start(processes, command, folder, environment).wait()
    return code, (folder / "printed.txt").read_text(), (folder / "errors.txt").read_text()
