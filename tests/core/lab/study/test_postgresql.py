"""Several machines share a study through PostgreSQL, which holds Optuna's trials and MLflow's runs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import postgresql
from ledger_helpers import OWN, RATES, finish_all, searched
from ledger_helpers import settings as section
from study_helpers import Command, assert_whole, kill, running_after, settings, trials_of, wait_for
from topwork.lab.study import storage as storage_module
from topwork.lab.study.ledger import PROCESS, RETRY_OF, open_ledger
from topwork.lab.study.storage import close, open_storage
from topwork.lab.study.worker import beating

pytestmark = pytest.mark.slow

TRIALS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


def both(tmp_path: Path, url: str, tracking: str) -> list[Command]:
    """Two machines, as far as that goes on one: two folders, two parents, four workers."""
    options = settings(f"tracking.uri={tracking}", epochs=60, trials=TRIALS, storage=url)
    return [Command(tmp_path / name, options) for name in ("here", "there")]


def parent_of(trial: Any) -> int:
    return int(trial.user_attrs[PROCESS].split(":")[1])


def test_two_studies_on_one_database_lose_and_double_nothing(tmp_path: Path, server: str) -> None:
    url, tracking = (postgresql.create_database(server, name) for name in ("trials", "runs"))
    for command in both(tmp_path, url, tracking):
        printed = command.finish()
        assert f"study quickstart: {TRIALS} trials complete, 0 pruned, 0 failed" in printed
    trials = trials_of(url)
    assert len(trials) == TRIALS
    assert_whole(trials, tracking, TRIALS)
    assert len({trial.user_attrs[PROCESS] for trial in trials}) > 2  # more workers than one command has
    tables = [(tmp_path / name / "printed.txt").read_text() for name in ("here", "there")]
    assert len({table[table.index("best trials") : table.index("values of trial")] for table in tables}) == 1


def test_one_of_two_studies_is_killed_whole_and_the_other_ends_its_work(tmp_path: Path, server: str) -> None:
    url, tracking = (postgresql.create_database(server, name) for name in ("trials2", "runs2"))
    victim, other = both(tmp_path, url, tracking)
    wait_for(lambda: running_after(url, finished=1) and victim.workers())
    workers = victim.workers()
    victim.process.kill()
    victim.process.wait()
    kill([worker for worker in workers if worker.is_running()])
    other.finish()
    assert_whole(trials_of(url), tracking, TRIALS)


def test_a_trial_of_another_machine_that_goes_silent_is_taken_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    monkeypatch.setattr(storage_module, "GRACE", 2)
    storage = open_storage(postgresql.create_database(server, "silent"))
    ledger = open_ledger(storage, "pair", section(trials=2), searched(RATES, OWN), identity={}, rising=[True], epochs=1)
    trial = ledger.ask()
    assert trial is not None
    with beating(ledger, trial.number):
        trial.set_user_attr(PROCESS, "another-machine:1:1.00")
        ledger.sweep()
        assert [one.state for one in ledger.trials()] == [TrialState.RUNNING]
    wait_for(lambda: ledger.sweep() or not ledger.running(), seconds=30)
    time.sleep(0.1)
    assert finish_all(ledger)[0] == OWN
    assert [one.user_attrs.get(RETRY_OF) for one in ledger.finished()] == [0, None]
    close(storage)
