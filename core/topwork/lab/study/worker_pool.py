"""A study's workers: spawned, polled, respawned, and never left behind. Here they are processes of this machine."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from topwork.errors import StorageError, StudyError, reason_of
from topwork.lab.study.worker_job import WorkerJob
from topwork.process_name import is_dead_here, this_process

#: Seconds that workers have to finish a batch and record what they did, before they are killed.
TERMINATION_TIMEOUT = 20

#: How many workers in a row may crash while no trial is finished, for each worker that there should be. It is
#: more than the crashes that a trial is granted, so that a trial that kills its workers fails and the study goes on.
MAX_CRASHES_PER_WORKER = 5


class Pool(Protocol):
    """Workers that do the same job."""

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left."""

    def spawn(self) -> None:
        """Start what can be started before there is a job.

        Raises:
            StorageError: the study's folder cannot be written.
        """

    def assign(self, job: WorkerJob) -> None:
        """Give all their job; they load what they need, and wait for the start."""

    def start(self) -> None:
        """Let those who have their job ask for trials."""

    def refill(self, job: WorkerJob) -> None:
        """Start as many workers as are missing."""

    def count_finished(self, finished: int) -> None:
        """Count crashes anew where more trials are ``finished`` than before: not every worker crashes."""

    def respawn(self, job: WorkerJob, *, wanted: bool) -> None:
        """Remove workers that have ended; where one crashed and trials are wanted, start another.

        Raises:
            StudyError: one after another crashes.
        """

    def terminate(self) -> None:
        """Stop all workers: they finish the batch that they are at and record that the trial was interrupted."""

    def stderr_tail(self) -> str:
        """The last lines that workers wrote, and where all of it is; nothing where they wrote none."""


class Crashes:
    """How many workers crashed since the last trial was finished.

    Args:
        workers: that there should be.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.count = 0
        self._finished = 0

    def count_finished(self, finished: int) -> None:
        """Count anew where more trials are finished than before."""
        if finished != self._finished:
            self._finished, self.count = finished, 0

    def add(self, how: str, wrote: str) -> None:
        """Count a crash.

        Args:
            how: the worker ended.
            wrote: what workers wrote.

        Raises:
            StudyError: one after another crashes.
        """
        self.count += 1
        if self.count >= MAX_CRASHES_PER_WORKER * self.workers:
            raise StudyError(
                f"{self.count} workers crashed and no trial was finished; the last one ended with {how}, and they "
                f"wrote:\n{wrote or 'nothing'}"
            )


class WorkerPool:
    """Workers on this machine.

    They are processes of a session of their own, so Ctrl-C reaches their parent alone, which then terminates them;
    and they stop by themselves when their standard input ends, that is, when their parent is gone.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.log = folder / f"workers-{this_process().replace(':', '~')}.log"
        self.processes: list[subprocess.Popen[str]] = []
        self.crashes = Crashes(count)

    @property
    def is_empty(self) -> bool:
        return not self.processes

    def spawn(self) -> None:
        """Start as many processes as are missing. What they import takes them some seconds; a job can wait.

        Raises:
            StorageError: the study's folder cannot be written.
        """
        while len(self.processes) < self.count:
            with self._open_log() as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "topwork.lab.study.worker"],  # -P: not from this folder
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=log,
                        text=True,
                        start_new_session=True,
                        env=environment_of_workers(1),
                    )
                )

    def assign(self, job: WorkerJob) -> None:
        for process in self.processes:
            _send(process, job.model_dump_json())

    def start(self) -> None:
        for process in self.processes:
            _send(process, "start")

    def refill(self, job: WorkerJob) -> None:
        """Spawn as many processes as are missing, and let them start at once."""
        before = len(self.processes)
        self.spawn()
        for new in self.processes[before:]:
            _send(new, f"{job.model_dump_json()}\nstart")

    def count_finished(self, finished: int) -> None:
        self.crashes.count_finished(finished)

    def respawn(self, job: WorkerJob, *, wanted: bool) -> None:
        for process in [process for process in self.processes if process.poll() is not None]:
            self.processes.remove(process)
            _close(process)
            if process.returncode == 0 or not wanted:
                continue
            self.crashes.add(_in_words(process.returncode), self.stderr_tail())
            self.refill(job)

    def terminate(self) -> None:
        for process in self.processes:
            process.terminate()
            _close(process)
        for process in self.processes:
            try:
                process.wait(TERMINATION_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        if self.log.exists() and not self.log.read_text(encoding="utf-8").strip():
            self.log.unlink()

    def stderr_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self.log.exists() else []
        return "\n".join([*lines[-5:], f"(all of it is in {self.log})"]) if lines else ""

    def _open_log(self) -> TextIO:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned_logs(self.log.parent)
            return self.log.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{self.log.parent} cannot be written: {reason_of(error)}") from None


def _remove_abandoned_logs(folder: Path) -> None:
    """Remove the empty logs of processes that are known to be gone; what workers wrote stays."""
    for path in folder.glob("workers-*.log"):
        if is_dead_here(path.stem.removeprefix("workers-").replace("~", ":")) and not path.stat().st_size:
            path.unlink(missing_ok=True)


def _in_words(code: int) -> str:
    """Say how a process ended."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def environment_of_workers(threads: int) -> dict[str, str]:
    """So many threads for each worker, and the parent's view of what is installed."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**os.environ, **numbers, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and will be respawned
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def _close(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
