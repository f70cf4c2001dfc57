"""A run goes from an experiment to a folder and an MLflow run, and ends properly whatever happens to it."""

import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from run_helpers import only_run, small
from small_experiment import QUICKSTART
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Epoch, Observer
from topwork.errors import DataError, StorageError, TrainingError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Head, HeadConfig, Metric
from topwork.interfaces.labels import Classes
from topwork.lab import runner as runner_module
from topwork.lab.result import UnsavedError
from topwork.lab.runs import plan, train
from topwork_plugins.heads.binary import BinaryConfig

RESERVE = """\
import sys
from pathlib import Path
from topwork.errors import StorageError
from topwork.files import reserved
try:
    with reserved(Path(sys.argv[1])):
        print("free")
except StorageError as error:
    print(error)
"""


def untracked(*settings: str) -> Experiment:
    return small("tracking.enabled=false", *settings)


@pytest.mark.slow
def test_a_run_without_tracking_writes_the_model_and_nothing_else(tmp_path: Path) -> None:
    result = train(untracked())
    assert result.run_id is None
    assert result.tracking_uri is None
    assert result.folder == Path("models") / result.name
    assert {path.name for path in tmp_path.iterdir()} == {"models"}
    assert load_model(result.folder).predict(["a text"])


@pytest.mark.slow
def test_two_runs_have_different_names(tmp_path: Path) -> None:
    names = {train(untracked("training.epochs=1")).name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("quickstart-") for name in names)


def test_an_existing_folder_is_refused_before_anything_is_done(tmp_path: Path, store_uri: str) -> None:
    with pytest.raises(StorageError, match="exists already; nothing is overwritten"):
        train(small(f"tracking.uri={store_uri}"), output=tmp_path)
    assert MlflowClient(tracking_uri=store_uri).get_experiment_by_name("quickstart") is None


@pytest.mark.parametrize(
    ("split", "named", "rows"),
    [
        ("{validation: 0.2, test: 0.3}", "test", 24),
        ("{validation: 0.2, test: 0.0}", "validation", 16),
        ("{validation: 0.0, test: 0.0}", "training", 80),
    ],
)
def test_figures_are_from_the_most_telling_rows(tmp_path: Path, split: str, named: str, rows: int) -> None:
    settings = (f"data.reviews.split={split}", "training.monitor=training/loss")
    result = train(untracked(*settings), output=tmp_path / "model")
    assert result.split == named
    assert {figure.rows for figure in result.estimates.values()} == {rows}


def test_truncated_texts_are_said_in_the_log_and_in_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = train(untracked(), output=tmp_path / "model")
    assert any("of 80 texts are longer than the backbone's max_length" in warning for warning in result.warnings)
    assert set(result.warnings) <= set(caplog.messages)


@pytest.mark.slow
def test_rows_that_are_skipped_are_told_in_the_result_and_in_mlflow(store_uri: str, tmp_path: Path) -> None:
    rows = (QUICKSTART.parent / "data" / "synthetic_reviews.csv").read_text().splitlines()
    (tmp_path / "faulty.csv").write_text("\n".join([*rows[:41], ",music,pos", *rows[41:80]]) + "\n")
    settings = [f"data.reviews.path={tmp_path / 'faulty.csv'}", "data.reviews.on_faulty_rows=skip", "training.epochs=1"]
    result = train(small(*settings, f"tracking.uri={store_uri}"), output=tmp_path / "model")
    (skipped,) = [warning for warning in result.warnings if "were skipped" in warning]
    assert skipped.splitlines()[1] == f"  {tmp_path / 'faulty.csv'}:42: text: the text is empty"
    logged = MlflowClient(tracking_uri=store_uri).download_artifacts(str(result.run_id), "warnings.txt", str(tmp_path))
    assert skipped in Path(logged).read_text()


@pytest.mark.slow
def test_the_variable_decides_where_an_experiment_names_no_store(
    store_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    result = train(small("training.epochs=1"), output=tmp_path / "model")
    assert result.tracking_uri == store_uri
    assert os.environ["MLFLOW_TRACKING_URI"] == store_uri
    assert MlflowClient(tracking_uri=store_uri).get_run(str(result.run_id)).info.status == "FINISHED"


@pytest.mark.reliability("D52")
def test_a_store_that_cannot_be_reached_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^the MLflow store http://127\.0\.0\.1:9 cannot be reached: "):
        train(small("tracking.uri=http://127.0.0.1:9"), output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupt() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise DataError("out of ink")


class Interrupting(Observer):
    """Does something when the second epoch begins."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def begin(self, phase: str, total: int) -> None:
        if phase == "epoch 2":
            self.act()


@pytest.mark.parametrize(
    ("act", "error", "status", "reason"),
    [
        (terminate, SystemExit, "KILLED", "interrupted: SystemExit"),
        (interrupt, KeyboardInterrupt, "KILLED", "interrupted: KeyboardInterrupt"),
        (fail, DataError, "FAILED", "DataError: out of ink"),
    ],
)
def test_an_interrupted_run_is_closed_with_its_reason(
    store_uri: str, tmp_path: Path, act: Callable[[], None], error: type[BaseException], status: str, reason: str
) -> None:
    with pytest.raises(error):
        train(small(f"tracking.uri={store_uri}"), output=tmp_path / "model", observer=Interrupting(act))
    run = only_run(store_uri)
    assert run.info.status == status
    assert run.data.tags["topwork.reason"] == reason
    assert "training/loss" in run.data.metrics
    assert not (tmp_path / "model").exists()


def test_a_run_that_diverges_is_failed_and_leaves_no_folder(store_uri: str, tmp_path: Path) -> None:
    experiment = small(f"tracking.uri={store_uri}", "optimizer.heads_lr=1e30")
    with pytest.raises(TrainingError, match="no epoch was finished"):
        train(experiment, output=tmp_path / "model")
    run = only_run(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["topwork.reason"].startswith("TrainingError: training diverged in epoch 1, step 2: ")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_another_run_will_make_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    class Second(Observer):
        def begin(self, phase: str, total: int) -> None:
            if phase == "epoch 2":
                command = [sys.executable, "-c", RESERVE, str(tmp_path / "model")]
                refused.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())

    refused: list[str] = []
    train(untracked(), output=tmp_path / "model", observer=Second())
    assert refused[0].startswith(f"{tmp_path / 'model'} is being made by process {os.getpid()} on ")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "runs"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"model"}


def test_a_model_for_which_there_is_no_room_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"model needs 0\.\d MB, and 0\.0 MB are free there; make room"):
        train(untracked(), output=tmp_path / "model")


class Taking(Observer):
    """Puts something where the model should be while it is trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def epoch(self, epoch: Epoch) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "theirs").touch()


@pytest.mark.slow
def test_a_model_that_cannot_be_saved_is_put_elsewhere_with_all_figures_logged(store_uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(UnsavedError) as caught:
        train(small(f"tracking.uri={store_uri}"), output=folder, observer=Taking(folder))
    result = caught.value.result
    assert str(caught.value) == (
        f"{folder} exists already; nothing is overwritten, so give another name or remove it; "
        f"the model is in {result.folder}"
    )
    assert load_model(result.folder).predict(["a text"])
    shutil.rmtree(result.folder)
    run = only_run(store_uri)
    assert run.data.metrics["test/sentiment/accuracy"] == result.estimates["sentiment/accuracy"].value
    assert run.info.status == "FAILED"
    assert [path.name for path in folder.iterdir()] == ["theirs"]


@pytest.mark.slow
def test_a_model_that_can_be_saved_nowhere_is_said_with_both_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, *rest: object) -> None:
        raise StorageError(f"{folder.name} could not be written: No space left on device")

    monkeypatch.setattr(runner_module, "save_model", refuse)
    with pytest.raises(UnsavedError) as caught:
        train(untracked("training.epochs=1"), output=tmp_path / "model")
    first, second = str(caught.value).splitlines()
    assert first == "model could not be written: No space left on device"
    assert second.startswith("topwork-")
    assert second.endswith(" could not be written: No space left on device; the model is lost")
    assert caught.value.result.estimates["sentiment/accuracy"].rows == 20


class Failing(BinaryConfig):
    """A head whose loss is not a number from the second epoch on."""

    def build(self, width: int, labels: Classes) -> Head:
        head, steps = super().build(width, labels), 0

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal steps
            steps += outputs.requires_grad
            return head.loss(outputs, targets) * (math.nan if steps > 3 else 1.0)

        return Head(head.module, loss, head.decode, head.metrics)


@pytest.mark.reliability("A15")
def test_a_run_that_diverges_later_leaves_the_best_weights(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the weights of epoch 1 are kept; they are in ") as caught:
        train(with_head(untracked(), Failing()), output=tmp_path / "model")
    assert str(caught.value).endswith(f"they are in {tmp_path / 'model'}")
    assert load_model(tmp_path / "model").predict(["a text"])[0].keys() == {"sentiment"}


class AreaConfig(BinaryConfig):
    """A head with a metric that is not defined on some resamples of 20 rows."""

    def build(self, width: int, labels: Classes) -> Head:
        def area(outputs: Tensor, targets: Tensor) -> Tensor:
            if targets.float().mean() < 0.35:
                raise ValueError("too few of one class")
            return torch.tensor(0.75)

        head = super().build(width, labels)
        return replace(head, metrics=[*head.metrics, Metric("area", area)])


def with_head(experiment: Experiment, head: HeadConfig) -> Experiment:
    return experiment.model_copy(update={"tasks": {"sentiment": Task(label="sentiment", head=head)}})


@pytest.mark.slow
@pytest.mark.usefixtures("all_resamples")
def test_a_metric_that_fails_after_training_costs_neither_the_model_nor_the_run(store_uri: str, tmp_path: Path) -> None:
    result = train(with_head(small(f"tracking.uri={store_uri}"), AreaConfig()), output=tmp_path / "model")
    estimate = result.estimates["sentiment/area"]
    assert (estimate.value, math.isnan(estimate.low)) == (0.75, True)
    said = (
        r"sentiment/area: no interval, because it failed on \d+ of 1,000 resamples of the rows: .*too few of one class"
    )
    assert re.fullmatch(said, result.warnings[-1])
    assert load_model(tmp_path / "model").predict(["a text"])
    run = only_run(store_uri)
    assert (run.info.status, run.data.metrics["test/sentiment/area"]) == ("FINISHED", 0.75)
    kept = MlflowClient(tracking_uri=store_uri).download_artifacts(run.info.run_id, "warnings.txt", str(tmp_path))
    assert Path(kept).read_text().splitlines() == result.warnings


class WarmingUpConfig(BinaryConfig):
    """A head whose outputs change after five batches by what is saved nowhere."""

    def build(self, width: int, labels: Classes) -> Head:
        head, batches = super().build(width, labels), 0

        def shift(module: nn.Module, inputs: object, outputs: Tensor) -> Tensor:
            nonlocal batches
            batches += module.training
            return outputs + 0.1 * (batches > 5)

        head.module.register_forward_hook(shift)
        return head


@pytest.mark.slow
def test_a_model_that_gives_something_else_when_it_is_loaded_is_told_in_the_run(
    store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = train(with_head(small(f"tracking.uri={store_uri}"), WarmingUpConfig()), output=tmp_path / "model")
    said = (
        f"{tmp_path / 'model'} does not give the outputs of task sentiment that the trained model gives; "
        "head 'binary': it depends on something besides its parameters and buffers, and nothing else is saved"
    )
    assert said in result.warnings
    assert said in caplog.messages
    client = MlflowClient(tracking_uri=store_uri)
    kept = client.download_artifacts(only_run(store_uri).info.run_id, "warnings.txt", str(tmp_path))
    assert said in Path(kept).read_text()


@pytest.mark.reliability("A8")
def test_training_outside_the_main_thread_touches_no_handler(tmp_path: Path) -> None:
    handlers: list[object] = []

    class Looking(Observer):
        def begin(self, phase: str, total: int) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    settings = {"output": tmp_path / "model", "observer": Looking()}
    thread = threading.Thread(target=train, args=[untracked("training.epochs=1")], kwargs=settings)
    thread.start()
    thread.join()
    assert (tmp_path / "model" / "model.json").exists()
    assert set(handlers) == {before}


def test_a_plan_computes_nothing_and_shows_itself_in_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned = plan(small())
    assert planned.trainable_numbers > 0
    assert list(tmp_path.iterdir()) == []
    html = planned._repr_html_()
    assert "what trains from epoch 1" in html
    assert '<td style="text-align:left">heads</td>' in html
    assert planned.digest[:12] in html


def test_results_show_themselves_in_notebooks(tmp_path: Path) -> None:
    result = train(untracked(), output=tmp_path / "model")
    html = result._repr_html_()
    assert "weights of epoch 2 of 2" in html
    assert html.count("<tr>") == 1 + len(result.estimates)


def test_an_experiment_of_a_script_reads_files_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(QUICKSTART.parent / "data" / "synthetic_reviews.csv", "rows.csv")
    experiment = Experiment.model_validate(
        {
            "name": "script",
            "data": {"rows": {"path": "rows.csv", "limit": 60}},
            "backbone": {"kind": "tiny"},
            "freeze": {"kind": "all"},
            "tasks": {"category": {"label": "category"}},
            "training": {"epochs": 1, "device": "cpu"},
        }
    )
    assert experiment.data["rows"].path == tmp_path / "rows.csv"
    monkeypatch.chdir("/")
    assert "category/accuracy" in train(experiment, output=tmp_path / "model").estimates
