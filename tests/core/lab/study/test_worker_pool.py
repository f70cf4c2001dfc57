"""A study's worker processes are spawned, replaced where they crash, and never left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from study_helpers import begun, make_study
from topwork.errors import StorageError, StudyError
from topwork.lab.study.worker_job import WorkerJob
from topwork.lab.study.worker_pool import MAX_CRASHES_PER_WORKER, WorkerPool
from waiting import wait_for

JOB = WorkerJob(experiment={}, folder=Path("f"), storage="", tracked=None, digest="", since=0.0, deadline=None)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[WorkerPool]:
    """A pool of two, none of which is spawned yet."""
    pool = WorkerPool(tmp_path / "study", 2)
    yield pool
    pool.terminate()


def kill(pool: WorkerPool, count: int) -> None:
    """Kill workers as the kernel does when memory ends."""
    for process in pool.processes[:count]:
        process.kill()
        process.wait()


def test_as_many_workers_are_spawned_as_are_missing(pool: WorkerPool) -> None:
    pool.spawn()
    first = list(pool.processes)
    assert len(first) == 2
    pool.spawn()
    assert pool.processes == first
    for process in first:
        worker = psutil.Process(process.pid)  # which the kernel may show for a moment without its arguments
        wait_for(lambda worker=worker: worker.cmdline()[1:] == ["-P", "-m", "topwork.lab.study.worker"])


def test_workers_are_of_a_session_of_their_own_with_one_thread_each(pool: WorkerPool) -> None:
    pool.spawn()
    for process in pool.processes:
        worker = psutil.Process(process.pid)  # which the kernel may show for a moment without its environment
        wait_for(lambda worker=worker: worker.environ().get("OMP_NUM_THREADS") == "1")
        assert worker.environ()["TOKENIZERS_PARALLELISM"] == "false"
        assert os.getsid(process.pid) == process.pid  # so that Ctrl-C does not reach it


def test_terminated_workers_are_gone_and_an_empty_log_with_them(pool: WorkerPool) -> None:
    pool.spawn()
    processes = list(pool.processes)
    assert pool.log.exists()
    pool.terminate()
    assert all(process.returncode is not None for process in processes)
    assert pool.processes == []
    assert not pool.log.exists()
    assert pool.stderr_tail() == ""


def test_what_workers_wrote_stays_and_its_end_is_told(pool: WorkerPool) -> None:
    pool.spawn()
    pool.log.write_text("\n".join(f"line {number}" for number in range(9)))
    pool.terminate()
    lines = pool.stderr_tail().splitlines()
    assert lines == [*(f"line {number}" for number in range(4, 9)), f"(all of it is in {pool.log})"]


def test_a_worker_that_crashed_is_replaced_while_trials_are_wanted(pool: WorkerPool) -> None:
    pool.spawn()
    stays = pool.processes[1]
    kill(pool, 1)
    pool.respawn(JOB, wanted=True)
    assert pool.processes[0] is stays
    assert len(pool.processes) == 2
    assert pool.crashes.count == 1
    kill(pool, 2)
    pool.respawn(JOB, wanted=False)
    assert pool.processes == []


def test_workers_that_crash_one_after_another_end_the_study(pool: WorkerPool) -> None:
    pool.spawn()
    pool.log.write_text("no room\n")
    for _ in range(MAX_CRASHES_PER_WORKER - 1):
        kill(pool, 2)
        pool.respawn(JOB, wanted=True)
    pool.count_finished(finished=0)  # none was finished in between
    kill(pool, 2)
    with pytest.raises(StudyError) as caught:
        pool.respawn(JOB, wanted=True)
    assert str(caught.value).startswith(
        f"{2 * MAX_CRASHES_PER_WORKER} workers crashed and no trial was finished; the last one ended with signal "
        "SIGKILL, and they wrote:\nno room\n"
    )


def test_crashes_are_counted_anew_when_a_trial_is_finished(pool: WorkerPool) -> None:
    pool.spawn()
    kill(pool, 1)
    pool.respawn(JOB, wanted=True)
    pool.count_finished(finished=1)
    assert pool.crashes.count == 0
    kill(pool, 1)
    pool.respawn(JOB, wanted=True)
    pool.count_finished(finished=1)
    assert pool.crashes.count == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file")
    with pytest.raises(StorageError, match=rf"^{tmp_path / 'study'} cannot be written: File exists"):
        WorkerPool(tmp_path / "study", 1).spawn()


@pytest.mark.slow
def test_a_worker_without_a_job_ends_in_peace_and_one_with_a_bad_job_says_why(pool: WorkerPool) -> None:
    with begun(make_study("tracking.enabled=false")) as run:
        pool.spawn()
        idle, busy = pool.processes
        assert idle.stdin
        idle.stdin.close()
        pool.processes.remove(idle)
        pool.assign(run.job.model_copy(update={"digest": "another"}))
        wait_for(lambda: idle.poll() is not None and busy.poll() is not None)
    assert (idle.returncode, busy.returncode) == (0, 3)
    pool.respawn(JOB, wanted=False)
    assert pool.stderr_tail().startswith(
        "the data has changed since the study began; put it back, or begin another study\n"
    )


def test_empty_logs_that_killed_processes_left_are_removed_and_others_stay(pool: WorkerPool) -> None:
    pool.log.parent.mkdir()
    host, number, started, boot, namespace = pool.log.stem.removeprefix("workers-").split("~")
    gone = [host, "999999999", started, boot, namespace]
    paths = [
        pool.log.with_name(f"workers-{'~'.join(parts)}.log")
        for parts in (gone, [*gone[:3], "another-boot", namespace], [*gone[:3], boot, "1"], ["elsewhere", number])
    ]
    told = pool.log.with_name(f"workers-{'~'.join([host, '999999998', started, boot, namespace])}.log")
    for path in paths:
        path.touch()
    told.write_text("what they wrote")
    pool.spawn()
    assert set(pool.log.parent.iterdir()) == {pool.log, told, *paths[1:]}
