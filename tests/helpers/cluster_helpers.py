"""Studies whose workers are jobs of submitit's local executor, and constants made small in processes of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial

from small_experiment import QUICKSTART
from study_helpers import Command
from topwork.lab.study.trial_states import PROCESS

#: Runs a command with process numbers and a host name of its own.
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child")

#: ``topwork study`` with jobs that are processes of this machine; otherwise the path is that of a cluster.
SCRIPT = """
import sys
from topwork.lab.study import slurm_pool
slurm_pool.CLUSTER, slurm_pool.LOOK_INTERVAL = "local", 0.5
from topwork.cli import main
main()
"""

#: Read by every Python process at its start. For those of a study it makes short what would make a test long, and for
#: jobs it writes down which epochs they train.
SITE = """
import os
import sys
if {"topwork.lab.study.worker", "submitit.core._submit", "study"} & set(sys.orig_argv):
    from topwork.lab.study import storage
    storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 2, 15
if "submitit.core._submit" in sys.orig_argv:
    from topwork.lab.study import trial, worker
    worker.SHORT_TRIAL = 0.0
    report = trial.TrialObserver.epoch
    def epoch(self, epoch):
        with open(os.environ["EPOCHS"], "a") as file:
            file.write(f"{epoch.number}\\n")
        report(self, epoch)
    trial.TrialObserver.epoch = epoch
"""


def impatient(folder: Path) -> dict[str, str]:
    """An environment in which trials of silent machines are soon given up, and short ones have checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


class HostCommand(Command):
    """``topwork study`` on a host of its own, as far as that goes on one: other process numbers, another name."""

    def __init__(self, folder: Path, host: str, options: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.host = host
        self.out = folder / f"printed-{host}.txt"
        study = [sys.executable, "-m", "topwork.cli", "study", str(QUICKSTART)]
        study += [part for option in options for part in ("--set", option)]
        with self.out.open("a") as printed:
            self.process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", 'hostname "$0"; exec "$@"', host, *study],
                cwd=folder,
                env={**os.environ, **impatient(folder / "site")},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def parent(self) -> psutil.Process:
        """The command itself, the first process of its host."""
        return psutil.Process(self.process.pid).children()[0]

    def workers(self) -> list[psutil.Process]:
        return self.parent().children()

    def worker_of(self, trial: FrozenTrial) -> psutil.Process | None:
        """The worker that trains a trial; None where it is of another host, or gone."""
        host, number = trial.user_attrs[PROCESS].split(":")[:2]
        found = [worker for worker in self.workers() if number == _number_inside(worker)]
        return found[0] if found and host == self.host else None


def _number_inside(process: psutil.Process) -> str:
    """The number that a process has on its own host."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[-1]


def skip_without_hosts() -> None:
    """Skip the test where no process numbers and host name of its own can be had."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "hostname", "a"], check=False).returncode:
        pytest.skip("unshare --pid --uts is not permitted here, so two hosts cannot be had on one machine")


class ClusterCommand(Command):
    """``topwork study`` whose workers are jobs."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.out = folder / "printed.txt"
        self.epochs = folder / "epochs.txt"
        self.epochs.touch()
        arguments = ["study", str(QUICKSTART), *(part for option in options for part in ("--set", option))]
        with self.out.open("a") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *arguments],
                cwd=folder,
                env={**os.environ, **impatient(folder / "site"), "EPOCHS": str(self.epochs)},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def controllers(self) -> list[psutil.Process]:
        """The jobs' processes that start, and requeue, the workers."""
        return [one for one in psutil.Process(self.process.pid).children() if "submitit.local._local" in one.cmdline()]

    def workers(self) -> list[psutil.Process]:
        return [worker for controller in self.controllers() for worker in controller.children()]

    def trained_epochs(self) -> list[int]:
        """The numbers of the epochs that jobs trained, in order."""
        return [int(line) for line in self.epochs.read_text().splitlines()]
