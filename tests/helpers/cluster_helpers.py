"""Studies whose workers are jobs of submitit's local executor, and constants made small in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from small_experiment import QUICKSTART
from study_helpers import Command

#: ``topwork study`` with jobs that are processes of this machine; otherwise the path is that of a cluster.
SCRIPT = """
import sys
from topwork.lab.study import slurm_pool
slurm_pool.CLUSTER, slurm_pool.LOOK_INTERVAL = "local", 0.5
from topwork.cli import main
main()
"""

#: Read by every Python process at its start; for those of a study it makes short what would make a test long.
SITE = """
import sys
if {"topwork.lab.study.worker", "submitit.core._submit", "topwork.cli"} & set(sys.orig_argv) or "study" in sys.orig_argv:
    from topwork.lab.study import storage
    storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 2, 15
if "submitit.core._submit" in sys.orig_argv:
    from topwork.lab.study import worker
    worker.SHORT_TRIAL = 0.0
"""


def impatient(folder: Path) -> dict[str, str]:
    """An environment in which trials of silent machines are soon given up, and short ones have checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


class ClusterCommand(Command):
    """``topwork study`` whose workers are jobs."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.out = folder / "printed.txt"
        arguments = ["study", str(QUICKSTART), *(part for option in options for part in ("--set", option))]
        with self.out.open("a") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *arguments],
                cwd=folder,
                env={**os.environ, **impatient(folder / "site")},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def workers(self) -> list[psutil.Process]:
        """The processes that train, below those that requeue them."""
        return [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if "submitit.core._submit" in process.cmdline()
        ]
