"""The book of trials: exactly as many as asked for, none twice, whatever dies in between."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from ledger_helpers import GRID, OWN, RATES, finish_all, searched, settings
from study_helpers import wait_for
from topwork.errors import ConfigurationError, StorageError
from topwork.experiment.study import Dimension
from topwork.lab.study import storage as storage_module
from topwork.lab.study.ledger import (
    DEATHS,
    DIED,
    FAILURES,
    LOST,
    PROCESS,
    REASON,
    RETRY_OF,
    Ledger,
    counts,
    is_lost,
    open_ledger,
    point_of,
    points_of,
)
from topwork.lab.study.storage import close, open_storage

Open = Callable[..., Ledger]

HELPERS = Path(__file__).parents[3] / "helpers"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def open_one(url: str) -> Iterator[Open]:
    """Open the same study, anew each time, as another process would."""
    storages = []

    def open_it(
        *,
        identity: dict[str, str] | None = None,
        rising: tuple[bool, ...] = (False,),
        grid: bool = False,
        what: dict[str, Dimension] | None = None,
        **changed: Any,
    ) -> Ledger:
        if grid:
            changed = {"search": {f"x.{name}": one for name, one in GRID.items()}, "sampler": "grid"} | changed
        sought = searched(GRID, {"depth": 2, "pooling": "mean"}) if grid else searched(what or RATES, OWN)
        given = identity or {"sha256 of the data": "abc"}
        storages.append(open_storage(url))
        return open_ledger(storages[-1], "pair", settings(**changed), sought, identity=given, rising=rising, epochs=4)

    yield open_it
    for storage in storages:
        close(storage)


def die(ledger: Ledger, trial: optuna.Trial) -> None:
    """Make the trial's process one that is gone."""
    host = trial.user_attrs[PROCESS].partition(":")[0]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    trial.set_user_attr(PROCESS, f"{host}:{gone.pid}:1.00")


def by_number(ledger: Ledger, number: int) -> FrozenTrial:
    return next(trial for trial in ledger.trials() if trial.number == number)


def test_the_first_trial_has_the_experiments_own_values(open_one: Open) -> None:
    trial = open_one().ask()
    assert trial is not None
    assert (trial.number, trial.params) == (0, OWN)


def test_as_many_trials_are_handed_out_as_are_wanted(open_one: Open) -> None:
    ledger = open_one(trials=3)
    assert len(finish_all(ledger)) == 3
    assert open_one(trials=3).ask() is None
    assert len(finish_all(open_one(trials=5))) == 2  # more were asked for later


def test_trials_that_run_count_as_taken(open_one: Open) -> None:
    one, other = open_one(trials=3), open_one(trials=3)
    trials = [one.ask(), other.ask(), one.ask()]
    assert all(trials)
    assert other.ask() is None


def test_pruned_and_failed_trials_count(open_one: Open) -> None:
    ledger = open_one(trials=3)
    first, second = ledger.ask(), ledger.ask()
    assert first and second
    ledger.prune(first)
    ledger.fail(second, "it diverged")
    assert len(finish_all(ledger)) == 1
    assert by_number(ledger, 1).user_attrs[REASON] == "it diverged"
    assert [trial.state for trial in ledger.finished()] == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]


def test_the_trial_of_a_dead_process_is_taken_up_again(open_one: Open) -> None:
    ledger = open_one(trials=3)
    finished, dead = ledger.ask(), ledger.ask()
    assert finished and dead
    ledger.complete(finished, [1.0])
    die(ledger, dead)
    trained = finish_all(open_one(trials=3))
    assert trained[0] == dead.params
    assert len(trained) == 2
    assert is_lost(by_number(ledger, dead.number))
    assert len(ledger.finished()) == 3
    assert not ledger.running()


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_nothing_is_suggested_twice_however_often_a_study_is_begun(open_one: Open, sampler: str) -> None:
    trained: list[dict[str, Any]] = []
    for trials in (4, 8, 12):
        trained += finish_all(open_one(trials=trials, sampler=sampler))
    assert len({tuple(params.values()) for params in trained}) == 12


def test_two_studies_alike_suggest_alike(tmp_path: Path) -> None:
    suggested = []
    for name in ("one", "two"):
        storage = open_storage(f"sqlite:///{tmp_path / name}.db")
        ledger = open_ledger(
            storage,
            "pair",
            settings(sampler="tpe", trials=12),
            searched(RATES, OWN),
            identity={},
            rising=[True],
            epochs=1,
        )
        suggested.append(finish_all(ledger))
    assert suggested[0] == suggested[1]


def test_an_interrupted_trial_is_taken_up_again_however_often(open_one: Open) -> None:
    ledger = open_one(trials=1)
    for _ in range(DEATHS + 2):
        trial = ledger.ask()
        assert trial is not None
        assert trial.params == OWN
        ledger.lose(trial)
    assert finish_all(ledger) == [OWN]
    assert [trial.number for trial in ledger.finished()] == [DEATHS + 2]
    assert by_number(ledger, 0).user_attrs[LOST] == "interrupted"
    assert by_number(ledger, 1).user_attrs[RETRY_OF] == 0


def test_a_trial_whose_process_dies_again_and_again_fails_for_good(open_one: Open) -> None:
    ledger = open_one(trials=2)
    for deaths in range(DEATHS):
        trial = ledger.ask()
        assert trial is not None
        assert trial.params == OWN
        assert trial.user_attrs.get(DIED, 0) == deaths
        die(ledger, trial)
    (other,) = finish_all(ledger)
    assert other != OWN
    failed = next(trial for trial in ledger.finished() if trial.state == TrialState.FAIL)
    assert failed.user_attrs[REASON] == "its process died 3 times, perhaps for want of memory"


@pytest.mark.parametrize("handed_out", ["nothing", "some values"])
def test_a_process_that_dies_while_it_is_handed_a_trial_loses_nothing(open_one: Open, handed_out: str) -> None:
    ledger = open_one(trials=2)
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        trial = ledger.study.ask()  # it holds the lock, and dies before it has written its name
    if handed_out == "some values":
        trial.suggest_float("heads_lr", 1e-4, 1e-2, log=True)
    assert finish_all(open_one(trials=2))[0] == OWN
    assert is_lost(by_number(ledger, 0))


def test_a_process_that_dies_while_it_takes_up_trials_takes_none_up_twice(open_one: Open) -> None:
    ledger = open_one(trials=2)
    trial = ledger.ask()
    assert trial is not None
    ledger.lose(trial)
    ledger.sweep()
    ledger.sweep()
    waiting = [trial for trial in ledger.trials() if trial.state == TrialState.WAITING]
    assert [trial.user_attrs for trial in waiting] == [{RETRY_OF: 0, DIED: 0}]


def test_what_was_noted_of_a_trial_that_others_gave_up_is_let_go(open_one: Open) -> None:
    ledger = open_one(trials=1)
    trial = ledger.ask()
    assert trial is not None
    ledger.study.tell(trial.number, state=TrialState.FAIL)  # as another machine does when it hears nothing
    ledger.complete(trial, [1.0])
    assert ledger.finished() == []
    assert finish_all(ledger) == [OWN]


def test_nothing_begins_after_the_deadline(open_one: Open) -> None:
    ledger = open_one()
    assert ledger.ask(deadline=time.time() - 1) is not None  # a study without any trial would be of no use
    assert ledger.ask(deadline=time.time() - 1) is None
    assert ledger.ask(deadline=time.time() + 60) is not None


def test_after_some_failures_in_a_row_nothing_more_begins(open_one: Open) -> None:
    ledger = open_one(trials=20)
    for number in range(FAILURES + 1):
        trial = ledger.ask()
        assert trial is not None
        if number:
            ledger.fail(trial, "it diverged")
        else:
            ledger.complete(trial, [1.0])
    assert ledger.failures_in_a_row(ledger.trials()) == FAILURES
    assert ledger.ask() is None
    assert open_one(trials=20).ask() is not None  # who runs the command again has mended something


def test_a_grid_is_visited_whole_and_once(open_one: Open) -> None:
    trained: list[dict[str, Any]] = []
    for trials in (3, 100):
        trained += finish_all(open_one(grid=True, trials=trials))
    assert open_one(grid=True, trials=100).wanted == 6
    assert trained[0] == {"depth": 2, "pooling": "mean"}
    assert sorted(tuple(params.values()) for params in trained) == [
        (depth, pooling) for depth in (0, 2, 4) for pooling in ("cls", "mean")
    ]


def test_the_points_of_a_grid_are_written_as_one_would() -> None:
    (one,) = searched({"a": Dimension(low=0.1, high=0.7, step=0.1)}, {"a": 0.1})
    assert [point_of(one, number) for number in range(points_of(one))] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_huge_grid_is_never_written_out(open_one: Open) -> None:
    ledger = open_one(
        search={"x.heads_lr": Dimension(low=0.0, high=1.0, step=1e-9), "x.backbone_lr": Dimension(choices=[5e-5, 1.0])},
        sampler="grid",
        trials=4,
        what={"heads_lr": Dimension(low=0.0, high=1.0, step=1e-9), "backbone_lr": Dimension(choices=[5e-5, 1.0])},
    )
    assert len(finish_all(ledger)) == 4


def test_failures_that_ended_a_study_are_tried_again_when_it_goes_on(open_one: Open) -> None:
    ledger = open_one(trials=FAILURES)
    failed = []
    while (trial := ledger.ask()) is not None:
        failed.append(trial.params)
        ledger.fail(trial, "a plugin was broken")
    again = open_one(trials=FAILURES)
    again.take_up_failures()
    again.take_up_failures()
    assert again.finished() == []
    assert finish_all(again) == failed
    assert [trial.state for trial in again.finished()] == [TrialState.COMPLETE] * FAILURES
    again.take_up_failures()
    assert again.ask() is None


def test_a_failure_is_not_tried_again_while_others_are_being_trained(open_one: Open) -> None:
    ledger = open_one(trials=4)
    first, second = ledger.ask(), ledger.ask()
    assert first is not None
    assert second is not None
    ledger.fail(first, "it diverged")
    another_machine = open_one(trials=4)
    another_machine.take_up_failures()
    assert [trial.number for trial in another_machine.finished()] == [first.number]


def test_failures_among_others_stay_what_they_are(open_one: Open) -> None:
    ledger = open_one(trials=2)
    first = ledger.ask()
    assert first is not None
    ledger.fail(first, "it diverged")
    finish_all(ledger)
    again = open_one(trials=2)
    again.take_up_failures()
    assert again.ask() is None


def test_a_local_study_goes_on_on_a_machine_of_another_name(open_one: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    monkeypatch.setattr(storage_module, "GRACE", 2)
    ledger = open_one(trials=1)
    trial = ledger.ask()
    assert trial is not None
    trial.set_user_attr(PROCESS, "the-old-name:1:1.00")
    wait_for(lambda: ledger.sweep() or not ledger.running(), seconds=30)
    assert finish_all(ledger) == [OWN]


def test_a_changed_study_is_refused_with_the_difference(open_one: Open, url: str) -> None:
    before = {"search of optimizer.heads_lr": "0.0001 to 0.01, logarithmic", "training.epochs": "20", "same": "1"}
    now = {
        "search of optimizer.heads_lr": "0.0001 to 0.1, logarithmic",
        "training.epochs": "20",
        "new": "x",
        "same": "1",
    }
    open_one(identity=before)
    with pytest.raises(ConfigurationError) as caught:
        open_one(identity=now, rising=(True,))
    assert str(caught.value).splitlines() == [
        f"study 'pair' in {url} was begun with other settings:",
        "search of optimizer.heads_lr: 0.0001 to 0.01, logarithmic then, 0.0001 to 0.1, logarithmic now",
        "direction of loss: minimize then, maximize now",
        "new: nothing then, x now",
        "set another study.name to begin anew, or change these back to go on",
    ]


def test_a_study_that_somebody_else_began_is_left_alone(open_one: Open, url: str) -> None:
    foreign = optuna.create_study(study_name="pair", storage=url)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigurationError) as caught:
        open_one()
    assert str(caught.value) == f"{url} has a study 'pair' that topwork did not begin; set another study.name"
    assert len(foreign.trials) == 1


def test_a_study_whose_parent_died_while_it_was_created_goes_on(open_one: Open, url: str) -> None:
    optuna.create_study(study_name="pair", storage=url)
    assert finish_all(open_one(trials=1)) == [OWN]


ASKER = """\
import sys
sys.path.insert(0, sys.argv[1])
import ledger_helpers as here
from topwork.lab.study.ledger import load_ledger
from topwork.lab.study.storage import open_storage
storage, searched = open_storage(sys.argv[2]), here.searched(here.RATES, here.OWN)
ledger = load_ledger(storage, "pair", here.settings(trials=24), searched, epochs=1)
here.finish_all(ledger)
"""


@pytest.mark.slow
def test_many_processes_at_once_share_the_trials_exactly(open_one: Open, url: str) -> None:
    ledger = open_one(trials=24)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    askers = [subprocess.Popen([sys.executable, "-c", ASKER, str(HELPERS), url], env=environment) for _ in range(4)]
    assert [asker.wait() for asker in askers] == [0] * 4
    trials = ledger.trials()
    assert len(trials) == 24
    assert all(counts(trial) for trial in trials)
    assert len({tuple(trial.params.values()) for trial in trials}) == 24
    owners = {trial.user_attrs[PROCESS] for trial in trials}
    assert len(owners) > 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////proc/nowhere/study.db", "study.storage sqlite:////proc/nowhere/study.db cannot be used: "),
        ("postgresql://me:secret@127.0.0.1:9/x", "study.storage postgresql://me:***@127.0.0.1:9/x cannot be used: "),
        ("rubbish", "study.storage <not a URL> cannot be used: "),
        ("sqlite://", "study.storage sqlite:// is kept in memory, where workers cannot share it; give a file"),
        ("sqlite+pysqlite:////proc/x.db", "study.storage sqlite+pysqlite:////proc/x.db cannot be used: "),
        ("mysql://me@127.0.0.1/x", "study.storage mysql://me@127.0.0.1/x needs a driver that is not installed: "),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "TRIES", 1)
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)
