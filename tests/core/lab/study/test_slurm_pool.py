"""Workers that are jobs are requeued when their time ends, replaced where they crash, and cancelled in the end.

Here the jobs are processes of submitit's local executor, which requeues them as SLURM would.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import postgresql
from cluster_helpers import ClusterCommand
from study_helpers import assert_whole, run_study, running_after, settings, trials_of
from topwork.lab.study.trial_states import CRASHES, PROCESS
from waiting import wait_for

#: All points of a grid, so that it does not matter which worker asks first.
GRID = {
    "search": {"optimizer.heads_lr": {"choices": [1e-3, 3e-3, 1e-2]}},
    "sampler": "grid",
    "trials": 3,
}
EPOCHS = 150


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


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
