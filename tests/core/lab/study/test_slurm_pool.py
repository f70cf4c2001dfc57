"""Workers that are jobs are requeued when their time ends, replaced where they crash, and cancelled in the end.

Here the jobs are processes of submitit's local executor, which requeues them as SLURM would.
"""

import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import postgresql
from cluster_helpers import ClusterCommand
from study_helpers import assert_whole, run_study, running_after, settings, trials_of
from topwork.errors import StorageError, StudyError
from topwork.experiment.study import SlurmSettings
from topwork.lab.study.slurm_pool import SlurmPool
from topwork.lab.study.trial_states import CRASHES, PROCESS
from topwork.lab.study.worker_job import WorkerJob
from waiting import wait_for

#: All points of a grid, so that it does not matter which worker asks first.
GRID = {
    "search": {"optimizer.heads_lr": {"choices": [1e-3, 3e-3, 1e-2]}},
    "sampler": "grid",
    "trials": 3,
}
EPOCHS = 150

JOB = WorkerJob(experiment={}, folder=Path("f"), storage="", tracked=None, digest="", since=0.0, deadline=None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


def make_pool(folder: Path) -> SlurmPool:
    return SlurmPool(folder / "study", "quickstart", 1, SlurmSettings())


def test_what_a_job_is_to_do_is_for_its_owner_alone(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    pool.spawn()
    pool.assign(JOB)
    assert stat.S_IMODE(pool.file.stat().st_mode) == 0o600
    assert WorkerJob.model_validate_json(pool.file.read_bytes()) == JOB
    pool.terminate()
    assert not pool.folder.exists()  # as no job wrote anything


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot be written: Not a directory$"):
        make_pool(tmp_path).spawn()


def test_what_slurm_says_of_a_job_that_it_does_not_take_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho sbatch: error: invalid partition specified >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    pool = make_pool(tmp_path)
    pool.spawn()
    with pytest.raises(StudyError) as caught:
        pool.start()
    assert str(caught.value) == (
        "SLURM does not take a worker: sbatch: error: invalid partition specified; correct study.slurm"
    )


def test_what_is_written_where_a_job_is_stopped_is_no_trouble_of_workers(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    pool.spawn()
    log = pool.folder / "7_0_log.err"
    log.write_text("slurmstepd: error: *** STEP 7.0 ON node CANCELLED AT 2026-01-01 ***\nsrun: Job step aborted\n")
    assert pool.stderr_tail() == ""
    log.write_text(f"{log.read_text()}slurmstepd: error: Detected 1 oom-kill event(s)\n")
    assert pool.stderr_tail() == f"slurmstepd: error: Detected 1 oom-kill event(s)\n(all of it is in {pool.folder})"
    pool.terminate()
    assert log.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("heard", "installed")
@pytest.mark.reliability("C52")
def test_a_job_whose_time_ends_is_requeued_and_goes_on_with_its_trial(tmp_path: Path, server: str) -> None:
    url, runs = (postgresql.create_database(server, name) for name in ("trials", "runs"))
    options = settings(f"tracking.uri={runs}", epochs=EPOCHS, storage=url, launcher="slurm", **GRID)
    command = ClusterCommand(tmp_path / "study", options)
    wait_for(lambda: len(command.trained_epochs()) > 10 or command.process.poll() is not None)
    jobs = {process.pid for process in command.controllers()}
    training = {trial.user_attrs[PROCESS].split(":")[1] for trial in running_after(url, finished=0)}
    for worker in command.workers():
        if str(worker.pid) in training:  # the others may not listen yet
            worker.send_signal(signal.SIGUSR2)  # as submitit does some time before the end of a job
    wait_for(lambda: TrialState.FAIL in {trial.state for trial in trials_of(url)})
    assert {process.pid for process in command.controllers()} == jobs  # the same jobs, with other processes
    printed = command.finish()
    assert "study quickstart: 3 trials complete, 0 pruned, 0 failed" in printed
    trials = trials_of(url)
    assert_whole(trials, runs, 3)
    assert {trial.user_attrs.get(CRASHES, 0) for trial in trials} == {0}
    assert len(command.trained_epochs()) == 3 * EPOCHS  # none of them twice
    undisturbed = run_study(epochs=EPOCHS, **GRID)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert {trial.params["heads_lr"]: tuple(trial.values) for trial in complete} == {
        trial.parameters["heads_lr"]: trial.values for trial in undisturbed.trials
    }
