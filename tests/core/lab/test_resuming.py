"""The same command goes on with a run that was interrupted, and refuses to where it could not be exact."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from run_helpers import only_run, small
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Epoch, Observer
from topwork.errors import ConfigurationError, PluginError, StorageError, TrainingError, UnrecoverableError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.lab import run_identity
from topwork.lab.result import Result
from topwork.lab.run_record import read_record
from topwork.lab.runs import resume, train, train_seeds
from topwork.registry import discover

pytestmark = pytest.mark.usefixtures("heard")

LONG = "training={epochs: 4, batch_size: 16, device: cpu, patience: null, shuffle: true}"


class Interrupting(Observer):
    """Sends a signal to this process after so many steps of an epoch."""

    def __init__(self, epoch: int, step: int = 2, number: int = signal.SIGINT) -> None:
        self.phase, self.step, self.number = f"epoch {epoch}", step, number
        self.running, self.done = "", 0
        self.resumed_after: list[tuple[int, int]] = []

    def begin(self, phase: str, total: int) -> None:
        self.running, self.done = phase, 0

    def advance(self, done: int) -> None:
        self.done += done
        if self.running == self.phase and self.done == self.step:
            signal.raise_signal(self.number)

    def resumed(self, epochs: object, steps: int) -> None:
        self.resumed_after.append((len(epochs), steps))  # type: ignore[arg-type]


@pytest.fixture
def tracked(store_uri: str) -> Callable[..., Experiment]:
    def make(*settings: str) -> Experiment:
        return small(f"tracking.uri={store_uri}", LONG, *settings)

    return make


def interrupt(experiment: Experiment, folder: Path, *, epoch: int = 2, step: int = 2, alone: bool = False) -> None:
    """Train until a step, and press Ctrl-C."""
    function = train if experiment.training.seeds is None else train_seeds
    with pytest.raises(KeyboardInterrupt):
        function(experiment, output=folder, observer=Interrupting(epoch, step), alone=alone)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder).model.state_dict())


def assert_same_models(some: Path, others: Path) -> None:
    first, second = weights_in(some), weights_in(others)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def timeless(epochs: list[Epoch]) -> list[tuple[object, ...]]:
    return [(one.number, one.metrics, one.learning_rates) for one in epochs]


def history_of(uri: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric of the only run with its steps, but for those that say how fast it was."""
    run, client = only_run(uri), MlflowClient(tracking_uri=uri)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {
        name: [(one.step, one.value) for one in history]
        for name, history in histories.items()
        if not name.startswith(("texts_per_second", "activations"))
    }


@pytest.mark.slow
@pytest.mark.reliability("A7", "A10")
def test_the_same_call_goes_on_to_the_same_weights_and_the_same_mlflow_run(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path
) -> None:
    whole = train(small("tracking.enabled=false", LONG), output=tmp_path / "whole")
    interrupt(tracked(), tmp_path / "model")
    run = only_run(store_uri)
    assert (run.info.status, run.data.tags["topwork.reason"]) == ("KILLED", "interrupted: KeyboardInterrupt")
    watcher = Interrupting(99)
    result = train(tracked(), output=tmp_path / "model", observer=watcher)
    assert watcher.resumed_after == [(1, 3)]  # the signal came after the second step, and the third was finished
    assert_same_models(tmp_path / "whole", tmp_path / "model")
    assert timeless(result.epochs) == timeless(whole.epochs)
    assert result.metrics == whole.metrics
    assert {name: one.value for name, one in result.estimates.items()} == {
        name: one.value for name, one in whole.estimates.items()
    }
    run = only_run(store_uri)
    assert run.info.status == "FINISHED"
    assert "topwork.reason" not in run.data.tags
    assert result.run_id == run.info.run_id
    history = history_of(store_uri)
    assert history["training/loss"] == [(one.number, one.metrics["training/loss"]) for one in whole.epochs]
    assert all(len({step for step, _ in steps}) == len(steps) for steps in history.values())
    assert {path.name for path in (tmp_path / "runs" / "model").iterdir()} == {"run.json"}
    assert read_record(tmp_path / "runs" / "model").state == "finished"


@pytest.mark.slow
def test_a_run_goes_on_by_its_folder_with_all_that_it_was_begun_with(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.seed=3")
    whole = train(experiment, output=tmp_path / "whole")
    interrupt(experiment, tmp_path / "model")
    result = resume(tmp_path / "runs" / "model")
    assert isinstance(result, Result)
    assert result.folder == tmp_path / "model"
    assert_same_models(tmp_path / "whole", tmp_path / "model")
    assert timeless(result.epochs) == timeless(whole.epochs)
    with pytest.raises(ConfigurationError, match=r"run .*model is finished; its model is in .*model"):
        resume(tmp_path / "runs" / "model")


@pytest.mark.slow
@pytest.mark.reliability("A19")
def test_a_run_goes_on_after_it_was_moved_with_its_data_and_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(small().data["reviews"].path or "", first / "reviews.csv")
    experiment = small("tracking.enabled=false", LONG, f"data.reviews.path={first / 'reviews.csv'}")
    monkeypatch.chdir(first)
    interrupt(experiment, Path("model"))
    record = (first / "runs" / "model" / "run.json").read_text()
    assert str(tmp_path) not in record
    monkeypatch.chdir(tmp_path)
    first.rename(tmp_path / "second")
    watcher = Interrupting(99)
    resume(tmp_path / "second" / "runs" / "model", observer=watcher)
    assert watcher.resumed_after
    assert load_model(tmp_path / "second" / "model").predict(["a text"])


@pytest.mark.slow
def test_the_model_may_go_elsewhere(tmp_path: Path) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "model")
    result = resume(tmp_path / "runs" / "model", output=tmp_path / "other")
    assert isinstance(result, Result)
    assert result.folder == tmp_path / "other"
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_several_seeds_go_on_where_they_were_and_none_is_trained_twice(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path, step: int
) -> None:
    experiment = tracked("training.seeds=[0, 1, 2]", "training.epochs=2")
    whole = train_seeds(with_overrides(experiment, {"tracking.enabled": False}, discover()), output=tmp_path / "whole")

    class SecondSeed(Interrupting):
        def run(self, name: str) -> None:
            self.phase = "epoch 2" if name == "seed 1" else "never"

    with pytest.raises(KeyboardInterrupt):
        train_seeds(experiment, output=tmp_path / "models", observer=SecondSeed(2, step))
    trained: list[str] = []

    class Notes(Observer):
        current = ""

        def run(self, name: str) -> None:
            self.current = name

        def epoch(self, epoch: Epoch) -> None:
            trained.append(f"{self.current} epoch {epoch.number}")

    result = train_seeds(experiment, output=tmp_path / "models", observer=Notes())
    assert trained == ["seed 1 epoch 2", "seed 2 epoch 1", "seed 2 epoch 2"]
    assert result.estimates == whole.estimates
    assert [timeless(one.epochs) for one in result.by_seed.values()] == [
        timeless(one.epochs) for one in whole.by_seed.values()
    ]
    for seed in (0, 1, 2):
        assert_same_models(tmp_path / "whole" / f"seed-{seed}", tmp_path / "models" / f"seed-{seed}")
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert sorted(str(run.info.run_name).removeprefix(result.name) for run in runs) == [
        "", "-seed-0", "-seed-1", "-seed-2",
    ]  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [path.name for path in (tmp_path / "runs" / "models").rglob("*")] == ["run.json"]


@pytest.mark.slow
def test_trainings_of_tasks_alone_go_on_too(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.epochs=2")
    whole = train(experiment, output=tmp_path / "whole", alone=True)

    class Alone(Interrupting):
        def run(self, name: str) -> None:
            self.phase = "epoch 2" if name == "category alone" else "never"

    watcher = Alone(2)
    watcher.phase = "never"
    with pytest.raises(KeyboardInterrupt):
        train(experiment, output=tmp_path / "model", observer=watcher, alone=True)
    assert (tmp_path / "model").exists()
    again = resume(tmp_path / "runs" / "model")
    assert isinstance(again, Result)
    assert again.against_alone == whole.against_alone
    assert repr(again.estimates) == repr(whole.estimates)  # some are NaN


@pytest.mark.slow
@pytest.mark.reliability("A10")
def test_what_has_changed_is_listed_and_refused(tmp_path: Path) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "model")
    changed = small("tracking.enabled=false", LONG, "training.batch_size=8", "tasks.sentiment.head.dropout=0.1")
    with pytest.raises(ConfigurationError) as caught:
        train(changed, output=tmp_path / "model")
    assert str(caught.value).splitlines() == [
        "this run was begun with other settings:",
        "tasks.sentiment.head.dropout: 0.0 then, 0.1 now",
        "training.batch_size: 16 then, 8 now",
        "change these back to go on, or give another --output to train anew",
    ]
    assert resume(tmp_path / "runs" / "model")


@pytest.mark.slow
@pytest.mark.reliability("A10")
def test_other_rows_are_refused(tmp_path: Path) -> None:
    shutil.copy(small().data["reviews"].path or "", tmp_path / "reviews.csv")
    experiment = small("tracking.enabled=false", LONG, f"data.reviews.path={tmp_path / 'reviews.csv'}")
    interrupt(experiment, tmp_path / "model")
    text = (tmp_path / "reviews.csv").read_text()
    (tmp_path / "reviews.csv").write_text(f"{text.rstrip()} \n")
    with pytest.raises(ConfigurationError, match="sha256 of the data: "):
        resume(tmp_path / "runs" / "model")


@pytest.mark.slow
def test_before_anything_is_done_anything_may_change(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path
) -> None:
    class Early(Observer):
        def begin(self, phase: str, total: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tracked(), output=tmp_path / "model", observer=Early())
    first = only_run(store_uri).info.run_id
    result = train(tracked("training.epochs=2", "training.batch_size=8"), output=tmp_path / "model")
    assert result.run_id != first
    assert len(result.epochs) == 2


@pytest.mark.slow
def test_epochs_may_be_added_and_patience_may_change(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(tracked("training.patience=3"), tmp_path / "model")
    whole = train(
        small("tracking.enabled=false", LONG, "training.epochs=6", "training.patience=5"), output=tmp_path / "whole"
    )
    with caplog.at_level(logging.WARNING):
        result = train(tracked("training.epochs=6", "training.patience=5"), output=tmp_path / "model")
    assert timeless(result.epochs) == timeless(whole.epochs)
    assert "goes on with other settings: training.epochs: 4 then, 6 now" in caplog.text
    tags = only_run(store_uri).data.tags
    assert tags["changed.training.epochs"] == "4 then, 6 now"
    assert tags["changed.training.patience"] == "3 then, 5 now"


@pytest.mark.slow
def test_tracking_may_change(tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "model")
    result = train(tracked(), output=tmp_path / "model")
    assert [step for step, _ in history_of(store_uri)["training/loss"]] == [1, 2, 3, 4]
    assert result.run_id


@pytest.mark.slow
@pytest.mark.reliability("A14")
def test_where_bits_may_differ_it_is_said_and_refused_or_noted(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tracked(), tmp_path / "model")
    monkeypatch.setattr(run_identity, "version", lambda name: "0.0.1")
    with pytest.raises(ConfigurationError) as caught:
        train(tracked(), output=tmp_path / "model")
    lines = str(caught.value).splitlines()
    assert lines[0] == "this run cannot go on to the same bits:"
    assert [line for line in lines if line.startswith("numerics: torch: ") and line.endswith(" then, 0.0.1 now")]
    assert lines[-1] == "change that back, or go on all the same with --allow-inexact, which is noted in the run"
    result = train(tracked(), output=tmp_path / "model", allow_inexact=True)
    assert "numerics: torch: " in only_run(store_uri).data.tags["topwork.inexact"]
    assert any(one.startswith("this run was interrupted, and may not give the bits") for one in result.warnings)
    assert read_record(tmp_path / "runs" / "model").inexact


@pytest.mark.slow
@pytest.mark.reliability("A3", "A4")
def test_a_damaged_newest_checkpoint_costs_what_came_after_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.checkpoint_minutes=0.000001")
    whole = train(experiment, output=tmp_path / "whole")
    interrupt(experiment, tmp_path / "model")
    newest = max((tmp_path / "runs" / "model" / "checkpoints").glob("*-*"))
    (newest / "state.safetensors").write_bytes(b"")
    watcher = Interrupting(99)
    with caplog.at_level(logging.WARNING):
        train(experiment, output=tmp_path / "model", observer=watcher)
    assert watcher.resumed_after == [(1, 2)]
    assert f"checkpoint {newest} is damaged: " in caplog.text
    assert_same_models(tmp_path / "whole", tmp_path / "model")
    assert whole.metrics


@pytest.mark.slow
@pytest.mark.reliability("A5")
def test_without_a_checkpoint_that_can_be_read_nothing_is_done(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.checkpoint_minutes=0.000001")
    interrupt(experiment, tmp_path / "model")
    for path in (tmp_path / "runs" / "model" / "checkpoints").rglob("state.json"):
        path.write_text("{")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(UnrecoverableError, match="no checkpoint of this training can be read, and nothing was deleted"):
        train(experiment, output=tmp_path / "model")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


RESUME = """\
import sys
from topwork import StorageError, resume
try:
    resume(sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.reliability("A18", "B23")
def test_a_second_process_is_refused_by_the_first_and_the_lock_of_a_dead_one_is_free(
    tmp_path: Path, installed: Path
) -> None:
    experiment = small("tracking.enabled=false", LONG)
    interrupt(experiment, tmp_path / "model")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    command = [sys.executable, "-c", RESUME, str(tmp_path / "runs" / "model")]
    refused: list[str] = []

    class Second(Observer):
        def epoch(self, epoch: Epoch) -> None:
            if not refused:
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
                refused.append(done.stdout.strip())

    resume(tmp_path / "runs" / "model", observer=Second())
    assert refused[0].startswith(f"{tmp_path / 'model'} is being made by process {os.getpid()} on ")


@pytest.mark.slow
@pytest.mark.reliability("A6", "A8")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_finishes_its_step_and_calls_the_handler_that_was_there(
    tmp_path: Path, number: int
) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda received, frame: heard.append(received))
    try:
        with pytest.raises(SystemExit) as caught:
            train(
                small("tracking.enabled=false", LONG),
                output=tmp_path / "model",
                observer=Interrupting(2, 2, number),
            )
        assert caught.value.code == 128 + number
        assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number, number]  # it is in place again
    finally:
        signal.signal(number, before)
    assert caught.value.__notes__ == [f"what is done is kept; go on with: topwork resume {tmp_path / 'runs' / 'model'}"]
    assert (tmp_path / "runs" / "model" / "checkpoints" / "000002-000000003").exists()


@pytest.mark.slow
@pytest.mark.reliability("A7")
def test_a_second_ctrl_c_ends_a_run_at_once_and_leaves_files_whole(tmp_path: Path) -> None:
    class Twice(Interrupting):
        def advance(self, done: int) -> None:
            super().advance(done)
            if self.running == self.phase and self.done == self.step:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small("tracking.enabled=false", LONG), output=tmp_path / "model", observer=Twice(2))
    assert not (tmp_path / "runs" / "model" / "checkpoints").exists()
    assert train(small("tracking.enabled=false", LONG), output=tmp_path / "model").epochs


@pytest.mark.slow
def test_a_plugin_that_fails_in_the_middle_leaves_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.checkpoint_minutes=0.000001")
    whole = train(experiment, output=tmp_path / "whole")

    class Failing(Observer):
        def epoch(self, epoch: Epoch) -> None:
            if epoch.number == 2:
                raise PluginError("a plugin fails")

    with pytest.raises(PluginError, match="a plugin fails") as caught:
        train(experiment, output=tmp_path / "model", observer=Failing())
    assert "topwork resume" in caught.value.__notes__[0]
    assert timeless(train(experiment, output=tmp_path / "model").epochs) == timeless(whole.epochs)
    assert_same_models(tmp_path / "whole", tmp_path / "model")


@pytest.mark.slow
@pytest.mark.reliability("A15")
def test_a_training_that_diverged_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(
        "tracking.enabled=false", LONG, "optimizer.heads_lr=1e30", "training.checkpoint_minutes=0.000001"
    )
    with pytest.raises(TrainingError, match="training diverged"):
        train(experiment, output=tmp_path / "model")
    record = read_record(tmp_path / "runs" / "model")
    assert record.state == "failed"
    assert "training diverged" in record.reason
    assert [path.name for path in (tmp_path / "runs" / "model").iterdir()] == ["run.json"]
    with pytest.raises(ConfigurationError, match="failed: training diverged"):
        resume(tmp_path / "runs" / "model")
    assert train(small("tracking.enabled=false", LONG), output=tmp_path / "model").epochs


@pytest.mark.slow
def test_a_model_that_was_written_before_the_kill_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.checkpoint_minutes=0.000001")

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("topwork.lab.runner.estimates", fail)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, output=tmp_path / "model")
    before = (tmp_path / "model" / "model.json").stat().st_ino
    assert train(experiment, output=tmp_path / "model").folder == tmp_path / "model"
    assert (tmp_path / "model" / "model.json").stat().st_ino == before


@pytest.mark.slow
@pytest.mark.reliability("A11")
def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"nothing is no run: it has no run\.json; topwork runs shows those there are"
    ):
        resume(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_nobody_named_says_which_one_could_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = small("tracking.enabled=false", LONG)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, observer=Interrupting(2))
    (run,) = (Path("models") / "runs").iterdir()
    with caplog.at_level(logging.WARNING):
        train(experiment)
    assert f"run {run} of this experiment is unfinished; topwork resume {run} goes on with it" in caplog.text


@pytest.mark.slow
def test_tasks_may_be_trained_alone_in_the_end_too(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.epochs=2")
    interrupt(experiment, tmp_path / "model")
    assert train(experiment, output=tmp_path / "model", alone=True).against_alone


@pytest.mark.slow
def test_epochs_that_some_seed_has_begun_stay(tmp_path: Path) -> None:
    interrupt(small("tracking.enabled=false", LONG, "training.seeds=[0, 1]"), tmp_path / "models", epoch=3)
    with pytest.raises(ConfigurationError, match=r"training\.epochs: 4 then, 2 now"):
        train_seeds(
            small("tracking.enabled=false", LONG, "training.seeds=[0, 1]", "training.epochs=2"),
            output=tmp_path / "models",
        )


@pytest.mark.slow
def test_the_mlflow_run_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _migrated_store: Path
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    shutil.copy(_migrated_store, first / "mlflow.db")
    monkeypatch.chdir(first)
    interrupt(small(LONG), Path("model"))
    monkeypatch.chdir(other)
    result = resume(first / "runs" / "model")
    assert isinstance(result, Result)
    assert only_run(f"sqlite:///{first / 'mlflow.db'}").info.run_id == result.run_id
    assert list(other.iterdir()) == []


@pytest.mark.slow
@pytest.mark.reliability("A19")
def test_a_run_is_found_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "deep" / "er" / "model")
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    result = resume(tmp_path / "link" / "runs" / "model")
    assert isinstance(result, Result)
    assert result.folder == tmp_path / "link" / "model"
    assert load_model(tmp_path / "deep" / "er" / "model").predict(["a text"])


@pytest.mark.slow
def test_where_tracking_is_turned_off_that_is_said_of_the_mlflow_run(
    tracked: Callable[..., Experiment], store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(tracked(), tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        train(small("tracking.enabled=false", LONG), output=tmp_path / "model")
    assert f"tracking is off, so the MLflow run of {tmp_path / 'runs' / 'model'} stays as it is" in caplog.text


@pytest.mark.slow
def test_a_model_that_is_gone_is_trained_again_and_none_is_left_behind_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = small("tracking.enabled=false", LONG, "training.seeds=[0, 1]", "training.epochs=2")

    class SecondSeed(Interrupting):
        def run(self, name: str) -> None:
            self.phase = "epoch 2" if name == "seed 1" else "never"

    with pytest.raises(KeyboardInterrupt):
        train_seeds(experiment, output=tmp_path / "models", observer=SecondSeed(2))
    with pytest.raises(ConfigurationError, match=r"models of run .* are in .*models already; go on without another"):
        resume(tmp_path / "runs" / "models", output=tmp_path / "others")
    shutil.rmtree(tmp_path / "models" / "seed-0")
    with caplog.at_level(logging.WARNING):
        result = train_seeds(experiment, output=tmp_path / "models")
    assert f"the model in {tmp_path / 'models' / 'seed-0'} is gone, so it is trained again" in caplog.text
    assert all(load_model(one.folder).predict(["a text"]) for one in result.by_seed.values())


@pytest.mark.slow
def test_what_stands_in_the_place_of_the_model_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG)
    interrupt(experiment, tmp_path / "model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "theirs").touch()
    for go_on in (lambda: train(experiment, output=tmp_path / "model"), lambda: resume(tmp_path / "runs" / "model")):
        with pytest.raises(StorageError, match="model exists already; nothing is overwritten"):
            go_on()


@pytest.mark.slow
def test_checkpoints_of_which_nothing_says_what_they_are_of_are_refused(tmp_path: Path) -> None:
    experiment = small("tracking.enabled=false", LONG)
    interrupt(experiment, tmp_path / "model")
    (tmp_path / "runs" / "model" / "run.json").unlink()
    with pytest.raises(
        StorageError,
        match=r"model has checkpoints or results, but no run\.json that says of what; remove it to train anew",
    ):
        train(experiment, output=tmp_path / "model")


@pytest.mark.slow
@pytest.mark.reliability("A18")
def test_a_run_is_kept_whatever_path_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "model")
    monkeypatch.chdir(tmp_path / "runs" / "model")
    code = "import sys; from topwork.files import is_held; from pathlib import Path; print(is_held(Path(sys.argv[1])))"
    found: list[str] = []

    class Looking(Observer):
        def epoch(self, epoch: Epoch) -> None:
            if not found:
                for path in (".", str(tmp_path / "link"), str(tmp_path / "runs" / "model")):
                    done = subprocess.run(
                        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
                    )
                    found.append(done.stdout.strip())

    resume(tmp_path / "runs" / "model", observer=Looking())
    assert found == ["True"] * 3


@pytest.mark.slow
def test_a_seed_that_diverges_names_those_that_are_finished(tmp_path: Path) -> None:
    class Failing(Observer):
        current = ""

        def run(self, name: str) -> None:
            self.current = name

        def epoch(self, epoch: Epoch) -> None:
            if self.current == "seed 1":
                raise TrainingError("it diverged", kept_epoch=0)

    experiment = small("tracking.enabled=false", LONG, "training.epochs=1", "training.seeds=[0, 1]")
    with pytest.raises(TrainingError) as caught:
        train_seeds(experiment, output=tmp_path / "models", observer=Failing())
    assert caught.value.__notes__ == [f"seed-0 had come to their end; their models stay in {tmp_path / 'models'}"]


@pytest.mark.slow
def test_a_file_that_somebody_put_into_the_folder_of_a_run_stays(tmp_path: Path) -> None:
    interrupt(small("tracking.enabled=false", LONG), tmp_path / "model")
    run = tmp_path / "runs" / "model"
    for name in (".gitignore", ".run.json.abcdefgh"):
        (run / name).touch()
    resume(run)
    assert {path.name for path in run.iterdir()} == {"run.json", ".gitignore"}
