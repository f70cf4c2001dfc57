"""Two hosts share a study through PostgreSQL, and whatever is killed, it ends with exactly the trials asked for."""

import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial

import postgresql
from cluster_helpers import HostCommand, skip_without_hosts
from study_helpers import assert_whole, kill, running_after, settings, trials_of
from topwork.lab.study.trial_states import CRASHES, PROCESS, is_finished
from waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("installed")]

#: All points of a grid, so that no trial may be repeated or left out.
SEARCH = {
    "optimizer.heads_lr": {"choices": [1e-3, 3e-3, 1e-2, 3e-2]},
    "optimizer.backbone_lr": {"choices": [5e-5, 5e-4, 5e-3]},
}
TRIALS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


@pytest.mark.reliability("C53")
def test_workers_and_then_a_host_are_killed_and_the_study_ends_whole(tmp_path: Path, server: str) -> None:
    skip_without_hosts()
    url, runs = (postgresql.create_database(server, name) for name in ("trials", "runs"))
    options = settings(f"tracking.uri={runs}", epochs=400, trials=100, storage=url, search=SEARCH, sampler="grid")
    hosts = [HostCommand(tmp_path / "study", name, options) for name in ("first", "second")]
    chance = random.Random(0)

    def training() -> list[tuple[FrozenTrial, psutil.Process]]:
        """The trials in training that were not disturbed before, each with its worker."""
        assert [host.process.poll() for host in hosts] == [None, None], [host.out.read_text() for host in hosts]
        found = [(trial, host.worker_of(trial)) for trial in running_after(url, finished=0) for host in hosts]
        return [(trial, worker) for trial, worker in found if worker and not trial.user_attrs.get(CRASHES)]

    def training_hosts() -> set[str]:
        return {trial.user_attrs[PROCESS].split(":")[0] for trial, _ in training()}

    try:
        for _ in range(2):
            trial, worker = chance.choice(wait_for(training))
            kill([worker])
            wait_for(lambda number=trial.number: number not in {one.number for one in running_after(url, finished=0)})
        wait_for(lambda: len(training_hosts()) == 2)
        hosts[1].parent().kill()  # and all of its processes with it, none of which records anything
        hosts[1].process.wait()
        printed = hosts[0].finish()
    finally:
        for host in hosts:
            host.process.kill()
            host.process.wait()
    assert f"study quickstart: {TRIALS} trials complete, 0 pruned, 0 failed" in printed
    trials = trials_of(url)
    assert_whole(trials, runs, TRIALS)
    assert max(trial.user_attrs.get(CRASHES, 0) for trial in trials) == 1
    assert {trial.user_attrs[PROCESS].split(":")[0] for trial in trials if is_finished(trial)} <= {"first", "second"}
