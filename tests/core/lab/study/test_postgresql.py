"""Several machines share a study through PostgreSQL, which holds Optuna's trials and MLflow's runs."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import postgresql
from queue_helpers import BASELINE, RATES, finish_all, searched
from queue_helpers import settings as section
from study_helpers import Command, assert_whole, kill, running_after, settings, trials_of
from topwork.lab.study import storage as storage_module
from topwork.lab.study.storage import close, locked, open_storage
from topwork.lab.study.trial_queue import TrialQueue, join_trial_queue, open_trial_queue
from topwork.lab.study.trial_states import PROCESS, RETRY_OF
from waiting import wait_for

pytestmark = pytest.mark.slow

#: All points of a grid, so that no trial may be repeated or left out.
SEARCH = {
    "optimizer.heads_lr": {"choices": [1e-3, 3e-3, 1e-2, 3e-2]},
    "optimizer.backbone_lr": {"choices": [5e-5, 5e-3]},
}
TRIALS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


def parent_of(trial: FrozenTrial) -> int:
    """The command whose worker trained a trial."""
    return int(trial.user_attrs[PROCESS].split(":")[1])


@pytest.mark.reliability("C40")
def test_one_of_two_studies_on_a_database_is_killed_and_the_other_loses_and_doubles_nothing(
    tmp_path: Path, server: str
) -> None:
    url, tracking = (postgresql.create_database(server, name) for name in ("trials", "runs"))
    options = settings(f"tracking.uri={tracking}", epochs=120, trials=100, storage=url, search=SEARCH, sampler="grid")
    # Two machines, as far as that goes on one: two folders, two parents, four workers.
    here, there = (Command(tmp_path / name, options) for name in ("here", "there"))

    def owners() -> set[int]:
        """Whose workers are training."""
        running = {parent_of(trial) for trial in running_after(url, finished=1)}
        return {
            command.process.pid for command in (here, there) if running & {worker.pid for worker in command.workers()}
        }

    try:
        wait_for(lambda: len(owners()) == 2 or here.process.poll() is not None or there.process.poll() is not None)
        assert here.process.poll() is there.process.poll() is None
        kill([*here.workers(), psutil.Process(here.process.pid)])
        here.process.wait()
        printed = there.finish()
    finally:
        for command in (here, there):
            if command.process.poll() is None:
                kill([*command.workers(), psutil.Process(command.process.pid)])
    assert f"study quickstart: {TRIALS} trials complete, 0 pruned, 0 failed" in printed
    assert_whole(trials_of(url), tracking, TRIALS)
    again = Command(tmp_path / "here", options).finish()
    assert f"resuming with {TRIALS} of {TRIALS} trials finished" in again
    tables = [said[said.rindex("best trials") : said.rindex("values of trial")] for said in (again, printed)]
    assert tables[0] == tables[1]


def open_pair(url: str) -> TrialQueue:
    search = searched(RATES, BASELINE)
    return open_trial_queue(
        open_storage(url), "pair", section(trials=2), search, identity={}, maximize=[True], epochs=1
    )


def test_a_trial_of_another_machine_that_goes_silent_is_queued_again(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql.create_database(server, "silent")
    queue = open_pair(url)
    trial = queue.ask()
    assert trial is not None
    trial.set_user_attr(PROCESS, "another-machine:1:1.00")
    queue.reap_stale()
    assert [one.state for one in queue.trials()] == [TrialState.RUNNING]
    monkeypatch.setattr(storage_module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage_module, "GRACE_SECONDS", 1)
    impatient = join_trial_queue(open_storage(url), "pair", section(trials=2), searched(RATES, BASELINE), epochs=1)
    wait_for(lambda: impatient.reap_stale() or not impatient.running())
    assert finish_all(impatient)[0] == BASELINE
    assert [one.user_attrs.get(RETRY_OF) for one in impatient.finished()] == [0, None]
    for one in (queue, impatient):
        close(one.storage)


def test_one_machine_at_a_time_hands_out_trials(server: str) -> None:
    storage = open_pair(postgresql.create_database(server, "locked")).storage
    lock = text("SELECT version_info_id FROM version_info FOR UPDATE NOWAIT")
    with locked(storage), storage.engine.connect() as other, pytest.raises(OperationalError, match="could not obtain"):
        other.execute(lock)
    with storage.engine.begin() as other:
        other.execute(lock)
    close(storage)
