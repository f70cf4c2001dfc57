"""Whatever is killed, and whenever: the same command ends with exactly the trials that were asked for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from study_helpers import Command, assert_whole, kill, running_after, runs_of, settings, trials_of
from topwork.lab.study.trial_states import CRASHES, PROCESS, RETRY_OF
from waiting import PATIENCE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heard")]


class Scene:
    """A study in a folder, with its database and its MLflow store; trials take some seconds, to be hit."""

    def __init__(self, folder: Path, store_uri: str, trials: int) -> None:
        self.folder = folder / "study"
        self.store_uri = store_uri
        self.n_trials = trials
        self.url = f"sqlite:///{self.folder / 'studies' / 'quickstart' / 'study.db'}"

    def begin(self) -> Command:
        return Command(self.folder, settings(f"tracking.uri={self.store_uri}", epochs=60, trials=self.n_trials))

    @contextmanager
    def begun(self, *, finished: int) -> Iterator[Command]:
        """A study in the middle: some trials are finished, others are being trained."""
        command = self.begin()
        try:
            wait_for(lambda: running_after(self.url, finished) or command.process.poll() is not None)
            assert command.process.poll() is None, command.out.read_text()
            yield command
        finally:
            kill([*command.workers(), psutil.Process(command.process.pid)] if command.process.poll() is None else [])
            command.process.wait()

    def complete(self) -> list[dict[str, object]]:
        return [trial.params for trial in trials_of(self.url) if trial.state == TrialState.COMPLETE]

    def assert_whole(self) -> None:
        assert_whole(trials_of(self.url), self.store_uri, self.n_trials)

    def assert_nothing_runs(self) -> None:
        assert TrialState.RUNNING not in {trial.state for trial in trials_of(self.url)}
        parents, children = runs_of(self.store_uri)
        assert "RUNNING" not in {run.info.status for run in [*parents, *children]}
        assert [parent.info.status for parent in parents] == ["KILLED"]


def kill_the_parent(scene: Scene, command: Command) -> None:
    """Its workers notice, and record that their trials were interrupted."""
    workers = command.workers()
    kill([psutil.Process(command.process.pid)])
    _, alive = psutil.wait_procs(workers, PATIENCE)
    assert alive == []
    assert TrialState.RUNNING not in {trial.state for trial in trials_of(scene.url)}


def kill_everything(scene: Scene, command: Command) -> None:
    """Nobody records anything."""
    kill([*command.workers(), psutil.Process(command.process.pid)])


def press_ctrl_c(scene: Scene, command: Command) -> None:
    """The study ends in good order, as it does at SIGTERM, which the tests of the command send."""
    workers = command.workers()
    command.process.send_signal(signal.SIGINT)
    command.finish(code=130)
    assert not any(worker.is_running() for worker in workers)
    scene.assert_nothing_runs()


def kill_a_worker(scene: Scene, command: Command) -> None:
    """The study replaces it, queues its trial again, and goes on to its end."""
    victim = wait_for(lambda: running_after(scene.url, finished=1))[0]  # those seen before may be finished by now
    kill([psutil.Process(int(victim.user_attrs[PROCESS].split(":")[1]))])
    command.finish()
    trials = {trial.number: trial for trial in trials_of(scene.url)}
    if trials[victim.number].state == TrialState.FAIL:  # unless it was just finished
        (retry,) = [trial for trial in trials.values() if trial.user_attrs.get(RETRY_OF) == victim.number]
        assert retry.params == victim.params
        assert retry.user_attrs[CRASHES] == victim.user_attrs.get(CRASHES, 0) + 1


@pytest.mark.reliability("C40", "C41")
def test_however_often_a_study_is_interrupted_the_same_command_ends_it(tmp_path: Path, store_uri: str) -> None:
    scene = Scene(tmp_path, store_uri, trials=8)
    before: list[dict[str, object]] = []
    interruptions = [press_ctrl_c, kill_the_parent, kill_everything, kill_a_worker]
    for count, interrupt in enumerate(interruptions, 1):
        with scene.begun(finished=count) as command:
            interrupt(scene, command)
        assert scene.complete()[: len(before)] == before  # none is trained again
        before = scene.complete()
    assert command.out.read_text().count("resuming with ") == len(interruptions) - 1
    scene.assert_whole()
    crashes = [trial.user_attrs.get(CRASHES, 0) for trial in trials_of(scene.url)]
    assert max(crashes) <= 2  # of being killed only, not of being asked to end
