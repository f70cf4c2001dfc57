"""A study's workers as jobs of a SLURM cluster, through submitit: submitted, watched, replaced, cancelled in the end.

All nodes see the study's folder. There a job finds what it is to do; submitit keeps no more of ours than the path of
that file. When its time ends, a job stops its trial with a checkpoint and is queued again by SLURM. Jobs outlive a
command that is killed, and go on until no trial is left.
"""

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import submitit
import torch
from submitit.core.utils import FailedSubmissionError, UncompletedJobError
from submitit.helpers import Checkpointable

from topwork.errors import StorageError, StudyError, TopworkError, first_line
from topwork.experiment.study import SlurmSettings
from topwork.files import write_file
from topwork.lab.processes import defer_signals
from topwork.lab.study.worker import Worker
from topwork.lab.study.worker_job import WorkerJob
from topwork.lab.study.worker_pool import TERMINATION_TIMEOUT, Crashes, environment_of_workers
from topwork.process_name import this_process

#: submitit's name of what runs the jobs; tests say ``local``, which runs them as processes and requeues them as well.
CLUSTER = "slurm"

#: Seconds before the end of a job's time at which it is told to stop.
NOTICE_SECONDS = 120

#: How often a job is queued again after its time ended.
MAX_REQUEUES = 100_000

#: Seconds between two looks at the jobs, each of which reads the shared folder and now and then asks SLURM.
LOOK_INTERVAL = 5.0

#: What a job returns that was asked to stop.
STOPPED = 128 + signal.SIGTERM

#: What submitit and SLURM write where a job is stopped or queued again.
NOISE = re.compile(r"submitit [A-Z]+ |srun: |slurmstepd: .*CANCELLED")

#: What a job must not inherit from a job in which the command itself runs.
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


class SlurmPool:
    """Workers that are jobs of a cluster.

    Args:
        folder: of the study.
        name: of the study, by which its jobs are listed.
    """

    def __init__(self, folder: Path, name: str, count: int, settings: SlurmSettings) -> None:
        self.count = count
        self.threads = settings.cpus
        self.folder = folder / "jobs" / this_process().replace(":", "~")
        self.file = self.folder / "job.json"
        self.parameters = {
            "name": f"topwork-{name}",
            "timeout_min": round(60 * settings.hours),
            "mem_gb": settings.memory,
            "cpus_per_task": settings.cpus,
            "gpus_per_node": settings.gpus or None,
            "slurm_partition": settings.partition,
            "slurm_signal_delay_s": NOTICE_SECONDS,
            "slurm_additional_parameters": {"requeue": True},  # whatever the cluster's default is
        }
        self.jobs: list[submitit.Job[int]] = []
        self.crashes = Crashes(count)
        self._looked = 0.0

    @property
    def is_empty(self) -> bool:
        return not self.jobs

    def spawn(self) -> None:
        """Make the folder; a job that waits for the texts to be encoded would waste its time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {error.strerror}") from None

    def assign(self, job: WorkerJob) -> None:
        write_file(self.file, job.model_dump_json().encode(), mode=0o600)  # it has the database's password

    def start(self) -> None:
        """Submit as many jobs as are missing.

        Raises:
            StudyError: SLURM does not take them.
        """
        logging.getLogger("submitit").setLevel(logging.ERROR)  # of what it cannot ask SLURM now it asks again
        executor = submitit.AutoExecutor(self.folder, CLUSTER, **{f"{CLUSTER}_max_num_timeout": MAX_REQUEUES})
        executor.update_parameters(**self.parameters)
        worker = JobWorker()  # type: ignore[no-untyped-call]  # submitit's
        while len(self.jobs) < self.count:
            with defer_signals(), _environment(_environment_of_jobs(self.threads)):
                try:
                    self.jobs.append(executor.submit(worker, str(self.file), self.threads))
                except (UncompletedJobError, FailedSubmissionError, OSError) as error:
                    raise StudyError(
                        f"SLURM does not take a worker: {first_line(error)}; correct study.slurm"
                    ) from None

    def refill(self, job: WorkerJob) -> None:
        self.start()

    def count_finished(self, finished: int) -> None:
        self.crashes.count_finished(finished)

    def respawn(self, job: WorkerJob, *, wanted: bool) -> None:
        if time.monotonic() < self._looked + LOOK_INTERVAL:
            return
        self._looked = time.monotonic()
        for ended in [one for one in self.jobs if one.done()]:
            self.jobs.remove(ended)
            code = _result(ended)
            if code == 0 or not wanted:
                continue
            if code != STOPPED:
                self.crashes.add(f"state {ended.state}", self.stderr_tail())
            self.start()

    def terminate(self) -> None:
        for job in self.jobs:
            job.cancel(check=False)
        until = time.monotonic() + TERMINATION_TIMEOUT
        while not self._are_done() and time.monotonic() < until:
            time.sleep(0.5)
        self.jobs.clear()
        self.file.unlink(missing_ok=True)
        if not self.stderr_tail():
            shutil.rmtree(self.folder, ignore_errors=True)

    def stderr_tail(self) -> str:
        lines = [
            line
            for path in sorted(self.folder.glob("*_log.err"))
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip() and not NOISE.match(line)
        ]
        return "\n".join([*lines[-5:], f"(all of it is in {self.folder})"]) if lines else ""

    def _are_done(self) -> bool:
        if self.jobs:
            self.jobs[0].get_info(mode="force")  # of all jobs at once
        return all(job.done() for job in self.jobs)


class JobWorker(Checkpointable):
    """What a job runs, and runs again after it was queued again: a worker that trains trials until none is left."""

    def __call__(self, file: str, threads: int) -> int:
        """Work; return 0 where no trial is left, else an exit code.

        Args:
            file: has the ``WorkerJob``.
        """
        stop = threading.Event()
        arrived: set[int] = set()

        def note(number: int, frame: object) -> None:
            arrived.add(number)
            stop.set()

        time_out = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        requeue = signal.getsignal(time_out)
        for number in (time_out, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)
        code = work_on(Path(file), threads, stop)
        if time_out in arrived:  # submitit would have done it in the middle of a step, or of a write to a database
            signal.signal(time_out, requeue)
            signal.raise_signal(time_out)
        return STOPPED if arrived else code


def work_on(file: Path, threads: int, stop: threading.Event) -> int:
    """Train trials until there are no more, or until stopped; return an exit code, whose reason is written to stderr.

    Args:
        file: has the ``WorkerJob``.
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # the parent has given those of the experiment
    try:
        Worker(WorkerJob.model_validate_json(file.read_bytes()), stop).work()
    except TopworkError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def missing_programs() -> str:
    """Name the programs of SLURM's that this machine does not have."""
    needed = ("sbatch", "srun", "scancel") if CLUSTER == "slurm" else ()
    return ", ".join(name for name in needed if shutil.which(name) is None)


def _result(job: submitit.Job[int]) -> int | None:
    """What a job returned; None where it was killed or raised."""
    if not job.paths.result_pickle.exists():  # submitit would wait for it
        return None
    try:
        return job.result()
    except UncompletedJobError:
        return None


def _environment_of_jobs(threads: int) -> dict[str, str]:
    """That of workers, without what tells of a job in which this process may run."""
    given = environment_of_workers(threads) | {"PYTHONSAFEPATH": "1"}  # not from this folder
    return {name: value for name, value in given.items() if not name.startswith(OF_A_JOB)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let this process have these variables alone, which jobs inherit; then it has its own again."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
