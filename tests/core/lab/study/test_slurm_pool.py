"""Workers that are jobs are requeued when their time ends, replaced where they crash, and cancelled in the end."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgresql
from cluster_helpers import ClusterCommand
from study_helpers import Command, assert_whole, running_after, settings, trials_of
from waiting import wait_for


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


@pytest.mark.slow
@pytest.mark.usefixtures("heard", "installed")
def test_a_job_whose_time_ends_is_requeued_and_goes_on_with_its_trial(tmp_path: Path, server: str) -> None:
    url, runs = (postgresql.create_database(server, name) for name in ("trials", "runs"))
    options = settings(f"tracking.uri={runs}", epochs=60, trials=3, storage=url, launcher="slurm", workers=2)
    command = ClusterCommand(tmp_path / "study", options)
    wait_for(lambda: running_after(url, finished=0) or command.process.poll() is not None)
    import time
    time.sleep(2)
    workers = command.workers()
    print(workers)
    for worker in workers:
        worker.send_signal(signal.SIGUSR2)
    printed = command.finish()
    print(printed)
    for t in trials_of(url): print(t.number,t.state,t.user_attrs)
    print(list((tmp_path/"study"/"studies").rglob("*")))
    assert 0
