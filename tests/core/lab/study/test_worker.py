"""A worker trains trials one after another, and records what becomes of each, whatever that is."""

import math
import os
import signal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text

from queue_helpers import OpenQueue
from study_helpers import begun, make_study, runs_of, work
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.errors import DataError, StorageError
from topwork.lab.study import worker as worker_module
from topwork.lab.study.trial import train_trial
from topwork.lab.study.trial_queue import TrialQueue
from topwork.lab.study.trial_states import INTERRUPTED, RUN, is_interrupted
from topwork.lab.study.worker import Worker, heartbeat, stop_event_on_signal
from topwork.lab.study.worker_job import outputs_file
from topwork.lab.tracking.store import PARENT_TAG, STUDY_TAG
from topwork.lab.tracking.study_log import STATE_TAG, TRIAL_TAG
from waiting import PATIENCE, wait_for

UNTRACKED = "tracking.enabled=false"


@pytest.mark.slow
def test_trials_are_trained_until_none_is_left(tmp_path: Path) -> None:
    with begun(make_study(UNTRACKED, trials=3)) as run:
        trials = work(run)
        assert [(trial.number, trial.state) for trial in trials] == [(n, "complete") for n in range(3)]
        assert all(trial.training_seconds > 0 for trial in trials)
        for number in range(3):
            file = outputs_file(tmp_path / "studies" / "quickstart", run.queue.id, number)
            assert SplitOutputs.from_bytes(file.read_bytes(), name=str(file)).split == "test"
        assert work(run) == trials  # nothing was left to do


@pytest.mark.slow
@pytest.mark.reliability("C47")
def test_a_trial_that_fails_has_a_reason_and_the_next_one_begins() -> None:
    search = {
        "optimizer.heads_lr": {"choices": [1e-3, 1e30]},
        "training.accumulation": {"choices": [1, 16]},
        "training.batch_size": {"choices": [16, 8]},
    }
    with begun(make_study(UNTRACKED, search=search, sampler="grid", trials=8)) as run:
        trials = work(run)
    assert len(trials) == 8
    for trial in trials:
        if trial.parameters["accumulation"] > trial.parameters["batch_size"]:
            assert (trial.state, trial.reason) == (
                "failed",
                "training: accumulation (16) must not exceed batch_size (8)",
            )
        elif trial.parameters["heads_lr"] == 1e30:
            assert trial.state == "failed"
            assert trial.reason.startswith("training diverged in epoch 1")
        else:
            assert (trial.state, trial.reason) == ("complete", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError("no room"), "MemoryError: no room"), (ValueError(), "ValueError: ValueError")],
)
@pytest.mark.reliability("C47")
def test_whatever_a_plugin_raises_fails_the_trial_alone(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    train = worker_module.train_trial

    def failing(*given: Any, **settings: Any) -> Any:
        monkeypatch.setattr(worker_module, "train_trial", train)
        raise error

    monkeypatch.setattr(worker_module, "train_trial", failing)
    with begun(make_study(UNTRACKED, trials=2)) as run:
        assert [(trial.state, trial.reason) for trial in work(run)] == [("failed", reason), ("complete", "")]


@pytest.mark.slow
def test_a_disk_that_fails_ends_the_worker_and_leaves_the_trial_to_others(tmp_path: Path) -> None:
    with begun(make_study(UNTRACKED, trials=2)) as run:
        (tmp_path / "studies" / "quickstart" / "trials").write_text("a file where a folder should be")
        with pytest.raises(StorageError):
            work(run)
        assert run.queue.finished() == []
        assert len(run.queue.running()) == 1  # until its process is found dead


def test_a_worker_that_is_stopped_begins_nothing() -> None:
    stop = Event()
    stop.set()
    with begun(make_study(UNTRACKED)) as run:
        assert work(run, stop) == []
        assert [trial.state.name for trial in run.queue.trials()] == ["WAITING"]


@pytest.mark.slow
@pytest.mark.reliability("C44")
def test_a_trial_that_is_stopped_is_marked_as_interrupted(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any, check: Any, **settings: Any) -> Any:
        check()
        stop.set()
        check()

    stop = Event()
    monkeypatch.setattr(worker_module, "train_trial", stopped)
    with begun(make_study(f"tracking.uri={store_uri}")) as run:
        assert work(run, stop) == []
        (trial,) = run.queue.trials()
        assert is_interrupted(trial)
        assert trial.user_attrs[INTERRUPTED] == "interrupted"
    _, (child,) = runs_of(store_uri)
    assert (child.info.status, child.data.tags[STATE_TAG]) == ("KILLED", "lost")
    assert child.data.tags["topwork.reason"] == "interrupted"


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned_with_several_seeds_too() -> None:
    rates = [1e-3, 0.03, *(10.0**-power for power in range(7, 16))]
    study = make_study(
        UNTRACKED,
        search={"optimizer.heads_lr": {"choices": rates}},
        objective="category/loss",
        sampler="grid",
        pruner="median",
        seeds=[0, 1],
        trials=11,
        epochs=4,
    )
    with begun(study) as run:
        trials = work(run)
        stored = {trial.number: trial for trial in run.queue.trials()}
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    assert len(trials) - len(pruned) >= 5  # the median needs some to compare with
    for trial in pruned:
        last = max(stored[trial.number].intermediate_values)
        assert 0 < last < 4 * 2
        assert trial.values == (stored[trial.number].intermediate_values[last],)


@pytest.mark.slow
def test_a_pruned_trial_has_its_state_in_mlflow(store_uri: str) -> None:
    study = make_study(f"tracking.uri={store_uri}", objective="category/loss", pruner="median", trials=6)
    with begun(study) as run:
        for _ in range(5):  # better than any training
            trial = run.queue.ask()
            assert trial is not None
            trial.report(-1.0, 1)
            run.queue.complete(trial, [-1.0])
        assert work(run)[-1].state == "pruned"
    _, (child,) = runs_of(store_uri)
    assert (child.info.status, child.data.tags[STATE_TAG]) == ("FINISHED", "pruned")
    assert "topwork.reason" not in child.data.tags


@pytest.mark.slow
def test_a_trial_is_a_run_below_its_studys_with_logarithms_of_its_rates(store_uri: str) -> None:
    search = {
        "optimizer.heads_lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "freeze.patterns": {"choices": [["layer.1.ffn"], ["layer.1"]]},
    }
    with begun(make_study(f"tracking.uri={store_uri}", search=search, trials=2, epochs=3)) as run:
        trials = work(run)
        assert run.log is not None
        by_run = {trial.user_attrs[RUN]: trial.number for trial in run.queue.finished()}
        (parent,), children = runs_of(store_uri)
        for child in children:
            trial = trials[by_run[child.info.run_id]]
            rate, patterns = trial.parameters["heads_lr"], trial.parameters["patterns"]
            assert child.data.params == {
                "heads_lr": str(rate),
                "heads_lr.log10": str(math.log10(rate)),
                "patterns": patterns,
            }
            tags = child.data.tags
            assert (tags[PARENT_TAG], tags[STUDY_TAG]) == (parent.info.run_id, "quickstart")
            assert (tags[TRIAL_TAG], tags[STATE_TAG]) == (str(trial.number), "complete")
            assert child.info.run_name == f"quickstart-{trial.number}"
            assert child.data.metrics["objective"] == pytest.approx(trial.values[0])
            history = run.log.store.client.get_metric_history(child.info.run_id, "epoch/objective")
            assert [metric.step for metric in history] == [1, 2, 3]
    assert len(children) == 2


@pytest.mark.slow
def test_data_that_has_changed_is_refused() -> None:
    with begun(make_study(UNTRACKED)) as run:
        job = run.job.model_copy(update={"digest": "another"})
        with pytest.raises(DataError, match="the data has changed since the study began; put it back, or begin"):
            Worker(job, Event())


def heartbeats_of(queue: TrialQueue) -> list[Any]:
    with queue.storage.engine.connect() as connection:
        return list(connection.execute(text("SELECT heartbeat FROM trial_heartbeats")).scalars())


@pytest.mark.slow
def test_a_trial_has_heartbeats_while_it_is_trained(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HEARTBEAT_SECONDS", 0.01)
    queue = open_queue()
    trial = queue.ask()
    assert trial is not None
    before = heartbeats_of(queue)
    with heartbeat(queue, trial.number):
        wait_for(lambda: heartbeats_of(queue) > before)


def test_sigterm_sets_the_event() -> None:
    stop, before = Event(), signal.getsignal(signal.SIGTERM)
    try:
        stop_event_on_signal(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.reliability("C41")
def test_a_long_trial_that_was_stopped_goes_on_in_another_worker_and_is_worth_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "SHORT_TRIAL", 0.0)
    epochs: list[int] = []
    stop = Event()

    def train_and_stop(*given: Any, on_epoch: Any, **settings: Any) -> Any:
        def note(step: int, *rest: Any) -> None:
            epochs.append(step)
            on_epoch(step, *rest)
            if len(epochs) == 2:
                stop.set()

        return train_trial(*given, on_epoch=note, **settings)

    study = make_study(UNTRACKED, trials=1, epochs=4)
    with begun(study) as run:
        assert [trial.values for trial in work(run)] != []
        expected = run.queue.finished()[0].values
    monkeypatch.setattr(worker_module, "train_trial", train_and_stop)
    with begun(make_study(UNTRACKED, trials=1, epochs=4, name="stopped")) as run:
        assert work(run, stop) == []
        assert is_interrupted(run.queue.trials()[0])
        assert list((run.study.folder / "checkpoints").glob("*/*-*"))
        assert epochs == [1, 2]
        run.queue.reap_stale()
        (finished,) = work(run)
        assert list(finished.values) == list(expected)
        assert epochs == [1, 2, 1, 2, 3, 4]  # the first two are told again, for the pruner and for MLflow
        assert not list((run.study.folder / "checkpoints").glob("*"))
