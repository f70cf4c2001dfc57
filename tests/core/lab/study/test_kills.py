"""Whatever is killed, and whenever: the same command ends with exactly the trials that were asked for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from study_helpers import Command, assert_whole, kill, running_after, runs_of, settings, trials_of, wait_for
from topwork.lab.study.ledger import DIED, PROCESS, RETRY_OF

pytestmark = pytest.mark.slow

TRIALS = 5

#: Trials take about a second, so that they can be hit.
OPTIONS = settings(epochs=100, trials=TRIALS)


class Scene:
    """A study in a folder, with its database and its MLflow store."""

    def __init__(self, folder: Path, store_uri: str) -> None:
        self.folder = folder / "study"
        self.store_uri = store_uri
        self.url = f"sqlite:///{self.folder / 'studies' / 'quickstart' / 'study.db'}"

    def begin(self) -> Command:
        return Command(self.folder, [*OPTIONS, f"tracking.uri={self.store_uri}"])

    @contextmanager
    def begun(self) -> Iterator[Command]:
        """A study in the middle: a trial is finished, others are being trained."""
        command = self.begin()
        try:
            wait_for(lambda: running_after(self.url, finished=1))
            yield command
        finally:
            command.process.kill()
            command.process.wait()

    def assert_whole(self) -> None:
        assert_whole(trials_of(self.url), self.store_uri, TRIALS)

    def assert_nothing_runs(self) -> None:
        assert TrialState.RUNNING not in {trial.state for trial in trials_of(self.url)}
        parents, children = runs_of(self.store_uri)
        assert "RUNNING" not in {run.info.status for run in [*parents, *children]}


@pytest.fixture
def scene(tmp_path: Path, store_uri: str) -> Scene:
    return Scene(tmp_path, store_uri)


def test_a_worker_that_is_killed_is_replaced_and_its_trial_taken_up(scene: Scene) -> None:
    with scene.begun() as command:
        victim = running_after(scene.url, finished=1)[0]
        kill([psutil.Process(int(victim.user_attrs[PROCESS].split(":")[1]))])
        command.finish()
    scene.assert_whole()
    trials = {trial.number: trial for trial in trials_of(scene.url)}
    if trials[victim.number].state == TrialState.FAIL:  # unless it was just finished
        (retry,) = [trial for trial in trials.values() if trial.user_attrs.get(RETRY_OF) == victim.number]
        assert retry.params == victim.params
        assert retry.user_attrs[DIED] == 1


def test_a_study_whose_parent_is_killed_leaves_no_worker_and_goes_on(scene: Scene) -> None:
    with scene.begun() as command:
        workers = command.workers()
        kill([psutil.Process(command.process.pid)])
        psutil.wait_procs(workers, timeout=30)
        assert not any(worker.is_running() for worker in workers)
        assert TrialState.RUNNING not in {trial.state for trial in trials_of(scene.url)}
    printed = scene.begin().finish()
    assert "going on with " in printed
    scene.assert_whole()


def test_a_study_that_is_killed_whole_goes_on(scene: Scene) -> None:
    with scene.begun() as command:
        kill([*command.workers(), psutil.Process(command.process.pid)])
    before = [trial.params for trial in trials_of(scene.url) if trial.state == TrialState.COMPLETE]
    scene.begin().finish()
    scene.assert_whole()
    after = [trial.params for trial in trials_of(scene.url) if trial.state == TrialState.COMPLETE]
    assert after[: len(before)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_ends_in_good_order_and_goes_on(scene: Scene, number: int, code: int) -> None:
    with scene.begun() as command:
        workers = command.workers()
        command.process.send_signal(number)
        command.finish(code=code)
    assert not any(worker.is_running() for worker in workers)
    scene.assert_nothing_runs()
    parents, _ = runs_of(scene.store_uri)
    assert [parent.info.status for parent in parents] == ["KILLED"]
    scene.begin().finish()
    scene.assert_whole()
    assert all(trial.user_attrs.get(DIED, 0) == 0 for trial in trials_of(scene.url))


def test_a_finished_study_is_told_again_without_any_training(scene: Scene) -> None:
    first = scene.begin().finish()
    again = scene.begin().finish()[len(first) :]
    assert f"going on with {TRIALS} of {TRIALS} trials finished" in again
    table = first[first.index("best trials") :]
    assert again[again.index("best trials") :] == table
    scene.assert_whole()
