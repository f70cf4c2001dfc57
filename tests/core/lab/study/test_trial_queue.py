"""As many trials are finished as were asked for, none twice, whatever dies in between."""

import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from queue_helpers import (
    BASELINE,
    RATES,
    OpenQueue,
    by_number,
    die,
    finish_all,
    finish_in_processes,
    searched,
    settings,
)
from topwork.errors import ConfigurationError
from topwork.lab.study import storage as storage_module
from topwork.lab.study.storage import close, open_storage
from topwork.lab.study.trial_queue import MAX_CRASHES, MAX_FAILURES, open_trial_queue
from topwork.lab.study.trial_states import (
    CRASHES,
    INTERRUPTED,
    PROCESS,
    REASON,
    RETRY_OF,
    is_finished,
    is_interrupted,
)
from waiting import wait_for


def test_the_first_trial_is_the_baseline(open_queue: OpenQueue) -> None:
    trial = open_queue().ask()
    assert trial is not None
    assert (trial.number, trial.params) == (0, BASELINE)


def test_without_a_baseline_the_first_trial_is_suggested(open_queue: OpenQueue) -> None:
    trial = open_queue(begin_with_it=False).ask()
    assert trial is not None
    assert trial.params != BASELINE


def test_as_many_trials_begin_as_are_wanted(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=3)
    assert len(finish_all(queue)) == 3
    assert open_queue(trials=3).ask() is None
    assert len(finish_all(open_queue(trials=5))) == 2  # more were asked for later


def test_running_trials_count(open_queue: OpenQueue) -> None:
    one, other = open_queue(trials=3), open_queue(trials=3)
    trials = [one.ask(), other.ask(), one.ask()]
    assert all(trials)
    assert other.ask() is None


def test_pruned_and_failed_trials_count(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=3)
    first, second = queue.ask(), queue.ask()
    assert first and second
    queue.prune(first)
    queue.fail(second, "it diverged")
    assert len(finish_all(queue)) == 1
    assert by_number(queue, 1).user_attrs[REASON] == "it diverged"
    assert [trial.state for trial in queue.finished()] == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.reliability("C40")
def test_the_trial_of_a_dead_process_is_queued_again(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=3)
    finished, dead = queue.ask(), queue.ask()
    assert finished and dead
    queue.complete(finished, [1.0])
    die(dead)
    trained = finish_all(open_queue(trials=3))
    assert trained[0] == dead.params
    assert len(trained) == 2
    assert is_interrupted(by_number(queue, dead.number))
    assert len(queue.finished()) == 3
    assert not queue.running()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.reliability("C51")
def test_two_studies_alike_suggest_alike(tmp_path: Path, sampler: str) -> None:
    suggested = []
    section, search = settings(sampler=sampler, trials=12), searched(RATES, BASELINE)
    for name in ("one", "two"):
        storage = open_storage(f"sqlite:///{tmp_path / name}.db")
        queue = open_trial_queue(storage, "pair", section, search, identity={}, maximize=[True], epochs=1)
        suggested.append(finish_all(queue))
        close(storage)
    assert suggested[0] == suggested[1]


def test_an_interrupted_trial_is_queued_again_however_often(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=1)
    for _ in range(MAX_CRASHES + 2):
        trial = queue.ask()
        assert trial is not None
        assert trial.params == BASELINE
        queue.mark_interrupted(trial)
    assert finish_all(queue) == [BASELINE]
    assert [trial.number for trial in queue.finished()] == [MAX_CRASHES + 2]
    assert by_number(queue, 0).user_attrs[INTERRUPTED] == "interrupted"
    assert by_number(queue, 1).user_attrs[RETRY_OF] == 0


@pytest.mark.slow
def test_a_trial_whose_process_dies_again_and_again_fails(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=2)
    for crashes in range(MAX_CRASHES):
        trial = queue.ask()
        assert trial is not None
        assert trial.params == BASELINE
        assert trial.user_attrs.get(CRASHES, 0) == crashes
        die(trial)
    (other,) = finish_all(queue)
    assert other != BASELINE
    failed = next(trial for trial in queue.finished() if trial.state == TrialState.FAIL)
    assert failed.user_attrs[REASON] == "its process died 3 times, perhaps for want of memory"


@pytest.mark.slow
@pytest.mark.parametrize("suggested", ["nothing", "some values"])
@pytest.mark.reliability("C43")
def test_a_process_that_dies_while_it_asks_for_a_trial_loses_nothing(open_queue: OpenQueue, suggested: str) -> None:
    queue = open_queue(trials=2)
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        trial = queue.study.ask()  # it holds the lock, and dies before it has written its name
    if suggested == "some values":
        trial.suggest_float("heads_lr", 1e-4, 1e-2, log=True)
    assert finish_all(open_queue(trials=2))[0] == BASELINE
    assert is_interrupted(by_number(queue, 0))


@pytest.mark.reliability("C42")
def test_an_interrupted_trial_is_queued_again_only_once(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=2)
    trial = queue.ask()
    assert trial is not None
    queue.mark_interrupted(trial)
    queue.reap_stale()
    queue.reap_stale()
    waiting = [trial for trial in queue.trials() if trial.state == TrialState.WAITING]
    assert [trial.user_attrs for trial in waiting] == [{RETRY_OF: 0, CRASHES: 0}]


def test_the_outcome_of_a_trial_that_others_gave_up_is_ignored(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=1)
    trial = queue.ask()
    assert trial is not None
    queue.study.tell(trial.number, state=TrialState.FAIL)  # as another machine does when it hears nothing
    queue.complete(trial, [1.0])
    assert queue.finished() == []
    assert finish_all(queue) == [BASELINE]


def test_nothing_begins_after_the_deadline(open_queue: OpenQueue) -> None:
    queue = open_queue()
    assert queue.ask(deadline=time.time() - 1) is not None  # a study without any trial would be of no use
    assert queue.ask(deadline=time.time() - 1) is None
    assert queue.ask(deadline=time.time() + 60) is not None


def test_after_some_failures_in_a_row_no_trial_begins(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=20)
    for number in range(MAX_FAILURES + 1):
        trial = queue.ask()
        assert trial is not None
        if number:
            queue.fail(trial, "it diverged")
        else:
            queue.complete(trial, [1.0])
    assert queue.consecutive_failures(queue.trials()) == MAX_FAILURES
    assert queue.ask() is None
    assert open_queue(trials=20).ask() is not None  # who runs the command again has fixed something


def test_failures_that_ended_a_study_are_queued_again_when_it_goes_on(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=MAX_FAILURES)
    failed = []
    while (trial := queue.ask()) is not None:
        failed.append(trial.params)
        queue.fail(trial, "a plugin was broken")
    again = open_queue(trials=MAX_FAILURES)
    again.requeue_failed()
    again.requeue_failed()
    assert again.finished() == []
    assert finish_all(again) == failed
    assert [trial.state for trial in again.finished()] == [TrialState.COMPLETE] * MAX_FAILURES
    again.requeue_failed()
    assert again.ask() is None


def test_a_failure_is_not_queued_again_while_others_are_being_trained(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=4)
    first, second = queue.ask(), queue.ask()
    assert first is not None
    assert second is not None
    queue.fail(first, "it diverged")
    another_machine = open_queue(trials=4)
    another_machine.requeue_failed()
    assert [trial.number for trial in another_machine.finished()] == [first.number]


def test_a_failure_that_did_not_end_the_study_is_not_queued_again(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=2)
    first = queue.ask()
    assert first is not None
    queue.fail(first, "it diverged")
    finish_all(queue)
    again = open_queue(trials=2)
    again.requeue_failed()
    assert again.ask() is None


@pytest.mark.slow
def test_a_local_study_goes_on_on_a_machine_of_another_name(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(storage_module, "GRACE_SECONDS", 1)
    queue = open_queue(trials=1)
    trial = queue.ask()
    assert trial is not None
    trial.set_user_attr(PROCESS, "the-old-name:1:1.00")
    wait_for(lambda: queue.reap_stale() or not queue.running())
    assert finish_all(queue) == [BASELINE]


@pytest.mark.reliability("C50")
def test_a_changed_study_is_refused_with_the_difference(open_queue: OpenQueue, url: str) -> None:
    before = {"search of optimizer.heads_lr": "0.0001 to 0.01, logarithmic", "training.epochs": "20", "same": "1"}
    now = {
        "search of optimizer.heads_lr": "0.0001 to 0.1, logarithmic",
        "training.epochs": "20",
        "new": "x",
        "same": "1",
    }
    open_queue(identity=before)
    with pytest.raises(ConfigurationError) as caught:
        open_queue(identity=now, maximize=(True,))
    assert str(caught.value).splitlines() == [
        f"study 'pair' in {url} was begun with other settings:",
        "search of optimizer.heads_lr: 0.0001 to 0.01, logarithmic then, 0.0001 to 0.1, logarithmic now",
        "direction of loss: minimize then, maximize now",
        "new: nothing then, x now",
        "set another study.name to start anew, or change these back to resume",
    ]


def test_a_study_that_somebody_else_began_is_left_alone(open_queue: OpenQueue, url: str) -> None:
    foreign = optuna.create_study(study_name="pair", storage=url)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigurationError) as caught:
        open_queue()
    assert str(caught.value) == f"{url} has a study 'pair' that topwork did not begin; set another study.name"
    assert len(foreign.trials) == 1


def test_a_study_whose_parent_died_while_it_was_created_goes_on(open_queue: OpenQueue, url: str) -> None:
    optuna.create_study(study_name="pair", storage=url)
    assert finish_all(open_queue(trials=1)) == [BASELINE]


@pytest.mark.slow
@pytest.mark.reliability("C46", "C49")
def test_many_processes_at_once_share_the_trials_exactly(open_queue: OpenQueue, url: str) -> None:
    queue = open_queue(trials=24)
    finish_in_processes(url, "random", 24, processes=3)
    trials = queue.trials()
    assert len(trials) == 24
    assert all(is_finished(trial) for trial in trials)
    assert len({tuple(trial.params.values()) for trial in trials}) == 24
    assert len({trial.user_attrs[PROCESS] for trial in trials}) == 3


def test_every_trial_has_a_state_in_words(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=9)
    trials = [queue.ask() for _ in range(5)]
    complete, pruned, failed, interrupted, running = (trial for trial in trials if trial is not None)
    queue.complete(complete, [1.0])
    queue.prune(pruned)
    queue.fail(failed, "it diverged")
    queue.mark_interrupted(interrupted)
    queue.reap_stale()  # the interrupted trial waits in the queue, and that is no trial that was begun
    assert queue.states() == {0: "complete", 1: "pruned", 2: "failed", 3: "lost", 4: "running"}
    assert [trial.number for trial in queue.running()] == [running.number]
    assert len(queue.trials()) == 6


def test_only_failures_since_the_beginning_count_as_failures_in_a_row(open_queue: OpenQueue) -> None:
    queue = open_queue(trials=9)
    for _ in range(2):
        trial = queue.ask()
        assert trial is not None
        queue.fail(trial, "it diverged")
    assert queue.consecutive_failures(queue.trials()) == 2
    assert open_queue(trials=9).consecutive_failures(queue.trials()) == 0


def test_a_study_keeps_its_id(open_queue: OpenQueue) -> None:
    first = open_queue().id
    assert len(first) == 16
    assert open_queue().id == first
