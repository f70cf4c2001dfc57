"""A run is written to MLflow whole, and MLflow's troubles never stop it."""

import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from small_experiment import QUICKSTART, TINY
from topwork.engine.observer import Epoch, Observer, Reading
from topwork.engine.preparation import prepare
from topwork.engine.trained_model import load_model
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment, Task
from topwork.lab.result import Result
from topwork.lab.runs import train
from topwork.lab.tracking.open_run import LONGEST_PARAMETER
from topwork.lab.tracking.run_log import RunLog, git_state, log_run
from topwork.lab.tracking.store import flatten, open_store
from topwork.registry import discover
from topwork_plugins.heads.binary import BinaryConfig

REVIEWS = QUICKSTART.parent / "data" / "synthetic_reviews.csv"
SMALL = [
    *TINY,
    "optimizer.heads_lr=0.003",
    "training={epochs: 3, batch_size: 16, device: cpu}",
]


def small(uri: str, *settings: str) -> Experiment:
    return load_experiment(QUICKSTART, [*SMALL, f"tracking.uri={uri}", *settings])


@dataclass(frozen=True)
class Tracked:
    """A finished run: what it was asked for, what it returned, and what MLflow has of it."""

    experiment: Experiment
    result: Result
    client: MlflowClient
    run: Run

    def history(self, name: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(self.run.info.run_id, name)]

    def artifacts(self, folder: str | None = None) -> Iterator[str]:
        for entry in self.client.list_artifacts(self.run.info.run_id, folder):
            yield from self.artifacts(entry.path) if entry.is_dir else [entry.path]

    def text(self, name: str) -> str:
        return Path(mlflow.artifacts.download_artifacts(f"{self.run.info.artifact_uri}/{name}")).read_text()


@pytest.fixture(scope="module")
def tracked(_migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """Train once, with the model stored."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = small(uri)
    result = train(experiment, output=folder / "model")
    client = MlflowClient(tracking_uri=uri)
    return Tracked(experiment, result, client, client.get_run(str(result.run_id)))


def test_a_run_is_finished_and_has_its_name(tracked: Tracked) -> None:
    assert tracked.run.info.status == "FINISHED"
    assert tracked.run.info.run_name == tracked.result.name
    assert tracked.client.get_experiment(tracked.run.info.experiment_id).name == "quickstart"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.heads_lr", "0.003"),
        ("optimizer.backbone_lr", "5e-05"),
        ("backbone.kind", "tiny"),
        ("training.epochs", "3"),
        ("tasks.sentiment.head.hidden", "[100, 50]"),
        ("freeze.patterns", "['layer.1.ffn']"),
    ],
)
def test_every_setting_is_a_flat_parameter(tracked: Tracked, name: str, value: str) -> None:
    assert tracked.run.data.params[name] == value


def test_no_setting_is_left_out(tracked: Tracked) -> None:
    assert flatten(tracked.experiment.dump()).keys() - tracked.run.data.params.keys() == {"name"}  # MLflow has it


def test_the_plan_is_in_parameters_and_in_an_artifact(tracked: Tracked) -> None:
    plan, params = json.loads(tracked.text("plan.json")), tracked.run.data.params
    by_group = [int(params[f"plan.trainable.{group}"]) for group in ("heads", "backbone")]
    assert int(params["plan.trainable"]) == sum(by_group)
    assert int(params["plan.frozen"]) == plan["frozen"]
    assert plan == prepare(tracked.experiment).plan.dump()


@pytest.mark.parametrize("name", ["validation/sentiment/accuracy", "training/category/loss", "validation/loss"])
def test_metrics_have_a_value_for_each_epoch(tracked: Tracked, name: str) -> None:
    expected = [(epoch.number, epoch.metrics[name]) for epoch in tracked.result.epochs]
    assert tracked.history(name) == expected
    assert [step for step, _ in expected] == [1, 2, 3]


def test_learning_rates_and_speeds_are_metrics_too(tracked: Tracked) -> None:
    assert tracked.history("learning_rate/heads") == [(1, 0.003), (2, 0.003), (3, 0.003)]
    assert tracked.history("learning_rate/backbone") == [(1, 5e-5), (2, 5e-5), (3, 5e-5)]
    assert [step for step, _ in tracked.history("texts_per_second/training")] == [1, 2, 3]
    assert tracked.run.data.metrics["texts_per_second/encoding"] > 0


def test_where_activations_are_is_noted(tracked: Tracked) -> None:
    metrics, tags = tracked.run.data.metrics, tracked.run.data.tags
    texts = prepare(tracked.experiment).plan.distinct_texts
    assert tracked.history("activations/texts") == [(0, texts)]
    assert tracked.history("activations/found") == [(0, 0)]
    assert metrics["texts_per_second/encoding"] > 0
    assert tags["activations.where"] == "memory"
    assert tags["activations.note"].startswith("it would not pay: with ")


def test_final_figures_come_with_their_intervals(tracked: Tracked) -> None:
    metrics = tracked.run.data.metrics
    for name, figure in tracked.result.estimates.items():
        logged = [metrics[f"test/{name}{end}"] for end in ("", "/low", "/high")]
        assert logged == pytest.approx([figure.value, figure.low, figure.high])
    assert metrics["best_epoch"] == tracked.result.best


def test_a_run_has_its_files(tracked: Tracked) -> None:
    assert set(tracked.artifacts()) == {
        "experiment.yaml",
        "experiment.resolved.yaml",
        "plan.json",
        "judged.safetensors",
        "warnings.txt",
        "figures/learning_curves.png",
        "figures/confusion_sentiment.png",
        "figures/confusion_category.png",
    }


def test_the_experiment_is_kept_as_written_and_as_resolved(tracked: Tracked) -> None:
    assert tracked.text("experiment.yaml") == QUICKSTART.read_text()
    resolved = YAML(typ="safe").load(tracked.text("experiment.resolved.yaml"))
    assert resolved == tracked.experiment.dump()
    again = Experiment.model_validate(resolved, context={"registry": discover()})
    assert again.dump() == tracked.experiment.dump()


def test_the_source_is_an_input_with_its_digest(tracked: Tracked) -> None:
    (source,) = tracked.run.inputs.dataset_inputs
    digest = hashlib.sha256(REVIEWS.read_bytes()).hexdigest()
    assert source.dataset.name == "reviews"
    assert source.dataset.digest == digest[:36]
    assert json.loads(source.dataset.source) == {"uri": REVIEWS.as_uri()}
    assert tracked.run.data.tags["data.digest"] == digest


def test_versions_and_plugins_are_tags(tracked: Tracked) -> None:
    tags = tracked.run.data.tags
    for package in ("topwork", "torch", "transformers", "mlflow"):
        assert tags[f"version.{package}"] == version(package)
    assert tags["plugin.backbone.tiny"] == "tiny-plugin 1.5"
    assert tags["plugin.freeze_strategy.all_except"] == f"topwork {version('topwork')}"
    assert {f"plugin.head.{kind}" for kind in ("binary", "classification")} <= tags.keys()


def stored_in(tracked: Tracked) -> Path:
    """The folder of the MLflow model that belongs to the run."""
    (stored,) = tracked.client.search_logged_models([tracked.run.info.experiment_id])
    assert stored.source_run_id == tracked.run.info.run_id
    return Path(mlflow.artifacts.download_artifacts(stored.artifact_location))


def test_the_stored_model_predicts_what_the_folder_predicts(tracked: Tracked) -> None:
    texts = ["The scale is not reliable at all.", "I found the display a pleasure."]
    said = mlflow.pyfunc.load_model(str(stored_in(tracked))).predict(texts)
    plain = [{task: prediction.model_dump() for task, prediction in by_task.items()} for by_task in said]
    expected = load_model(tracked.result.folder).predict(texts)
    assert plain == [{task: asdict(prediction) for task, prediction in by_task.items()} for by_task in expected]


def test_the_stored_model_names_the_packages_it_needs(tracked: Tracked) -> None:
    required = (stored_in(tracked) / "requirements.txt").read_text().split()
    assert {f"topwork=={version('topwork')}", "tiny-plugin==1.5"} <= set(required)


def test_nothing_that_is_stored_is_pickled(tracked: Tracked) -> None:
    suffixes = {path.suffix for path in stored_in(tracked).rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin"}


@pytest.mark.slow
def test_the_stored_model_is_served(tracked: Tracked, installed: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(stored_in(tracked))]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # mlflow looks for uvicorn there
    environment = os.environ | {"PYTHONPATH": str(installed), "PATH": path}
    log = tmp_path / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                break
            time.sleep(0.5)
        texts = ["The scale is not reliable at all."]
        question = Request(f"http://127.0.0.1:{port}/invocations", json.dumps({"inputs": texts}).encode())
        question.add_header("Content-Type", "application/json")
        with urlopen(question, timeout=60) as reply:
            answer = json.loads(reply.read())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)
    (expected,) = load_model(tracked.result.folder).predict(texts)
    assert answer == {"predictions": [{task: asdict(said) for task, said in expected.items()}]}


def test_a_run_leaves_mlflow_as_it_was(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlflow.active_run() is None
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert mlflow.get_tracking_uri() == "sqlite:///elsewhere.db"


def test_the_variable_decides_where_an_experiment_names_no_store(
    store_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    result = train(load_experiment(QUICKSTART, [*SMALL, "training.epochs=1"]), output=tmp_path / "model")
    assert result.tracking_uri == store_uri
    assert os.environ["MLFLOW_TRACKING_URI"] == store_uri
    assert MlflowClient(tracking_uri=store_uri).get_run(result.run_id).info.status == "FINISHED"


@pytest.fixture
def log(store_uri: str) -> Iterator[RunLog]:
    """An open run in a fresh store."""
    with log_run(open_store(small(store_uri)), "a-run") as log:
        yield log


def run_of(log: RunLog) -> Run:
    return MlflowClient(tracking_uri=log.store.uri).get_run(log.run_id)


def test_a_long_parameter_is_shortened_with_a_note(log: RunLog) -> None:
    patterns = ["layer.1.ffn"] * 1000
    log.start(prepare(small(log.store.uri, f"freeze.patterns={patterns}")), discover())
    value = run_of(log).data.params["freeze.patterns"]
    assert len(value) <= LONGEST_PARAMETER < len(str(patterns))
    assert value.startswith("['layer.1.ffn', ")
    assert value.endswith("... (whole in experiment.yaml)")


def test_a_large_experiment_has_all_its_parameters(log: RunLog) -> None:
    tasks = {f"task{number}": Task(label="sentiment", head=BinaryConfig(hidden=())) for number in range(40)}
    experiment = small(log.store.uri).model_copy(update={"tasks": tasks})
    log.start(prepare(experiment), discover())
    assert flatten(experiment.dump()).keys() - run_of(log).data.params.keys() == {"name"}


def test_an_experiment_made_in_python_is_kept_as_resolved(log: RunLog) -> None:
    read = small(log.store.uri)
    experiment = Experiment.model_validate(read.dump(), context={"registry": discover()})
    log.start(prepare(experiment), discover())
    uri = f"{run_of(log).info.artifact_uri}/experiment.yaml"
    text = Path(mlflow.artifacts.download_artifacts(uri)).read_text()
    assert YAML(typ="safe").load(text) == experiment.dump()


def epoch(number: int) -> Epoch:
    return Epoch(number, {"training/loss": 1.0 / number}, {"heads": 1e-3}, 100.0)


KEY = "5e" * 32


@pytest.mark.parametrize(
    ("reading", "found", "speed"),
    [
        (Reading(texts=80, encoded=80, seconds=4.0, where="store", note=KEY), 0, 20.0),
        (Reading(texts=80, encoded=20, seconds=4.0, where="store", note=KEY), 60, 5.0),
        (Reading(texts=80, encoded=0, seconds=4.0, where="store", note=KEY), 80, None),
        (Reading(texts=80, encoded=80, seconds=4.0, where="memory", note="training.store is off"), 0, 20.0),
        (Reading(texts=80, encoded=0, seconds=4.0, where="recomputed", note="training.store is off"), 0, None),
        (Reading(texts=80, encoded=0, seconds=4.0, where="token ids", note="the first stage trains"), 0, None),
    ],
)
def test_every_way_of_getting_activations_is_noted(
    log: RunLog, reading: Reading, found: int, speed: float | None
) -> None:
    log.read(reading)
    data = run_of(log).data
    assert data.tags["activations.where"] == reading.where
    assert data.tags["activations.note"] == reading.note
    assert data.metrics["activations/texts"] == 80
    assert data.metrics["activations/found"] == found
    assert data.metrics.get("texts_per_second/encoding") == speed


def test_what_is_found_in_the_store_is_noted(store_uri: str, tmp_path: Path) -> None:
    runs = [
        train(small(store_uri, "training.store=require", "training.epochs=1"), output=tmp_path / name)
        for name in ("first", "second")
    ]
    first, second = (MlflowClient(tracking_uri=store_uri).get_run(str(run.run_id)).data for run in runs)
    assert (first.metrics["activations/found"], second.metrics["activations/found"]) == (
        0,
        second.metrics["activations/texts"],
    )
    assert first.tags["activations.where"] == second.tags["activations.where"] == "store"
    assert first.tags["activations.note"] == second.tags["activations.note"]
    assert len(first.tags["activations.note"]) == 64
    assert "texts_per_second/encoding" not in second.metrics


def test_a_run_in_phases_notes_its_sizes_and_rates(store_uri: str, tmp_path: Path) -> None:
    experiment = small(store_uri, "freeze={kind: gradual}", "tracking.log_model=false")
    result = train(experiment, output=tmp_path / "model")
    client, plan = MlflowClient(tracking_uri=store_uri), prepare(experiment).plan
    params = client.get_run(str(result.run_id)).data.params
    sizes = {group.name: plan.size(group) for group in plan.phases[-1].groups}
    assert {name: int(params[f"plan.trainable.{name}"]) for name in ("heads", "backbone")} == sizes
    assert int(params["plan.trainable"]) == plan.trainable == sum(sizes.values())
    history = client.get_metric_history(str(result.run_id), "learning_rate/backbone")
    assert [metric.step for metric in history] == [2, 3]
    readings = client.get_metric_history(str(result.run_id), "activations/texts")
    assert [metric.step for metric in readings] == [phase.first - 1 for phase in plan.phases]


def sql(uri: str, statement: str) -> None:
    """Do something to the store behind MLflow's back."""
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
    with connection:
        connection.execute(statement)
    connection.close()


def test_metrics_that_could_not_be_written_are_sent_with_the_next(
    log: RunLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.epoch(epoch(1))
    sql(log.store.uri, "ALTER TABLE metrics RENAME TO gone")
    log.epoch(epoch(2))
    sql(log.store.uri, "ALTER TABLE gone RENAME TO metrics")
    log.epoch(epoch(3))
    assert "MLflow could not take metrics" in caplog.text
    history = log.store.client.get_metric_history(log.run_id, "training/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_any_number_of_metrics_that_waited_is_written(log: RunLog) -> None:
    many = {f"training/task{number}/loss": 0.5 for number in range(600)}  # MLflow takes 1000 at a time
    sql(log.store.uri, "ALTER TABLE metrics RENAME TO gone")
    log.epoch(Epoch(1, many, {"heads": 1e-3}, 100.0))
    sql(log.store.uri, "ALTER TABLE gone RENAME TO metrics")
    log.epoch(Epoch(2, many, {"heads": 1e-3}, 100.0))
    assert len(log.store.client.get_metric_history(log.run_id, "training/task599/loss")) == 2
    assert log.waiting == []


def test_a_tracker_that_fails_does_not_stop_training(
    store_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Saboteur(Observer):
        def begin(self, phase: str, total: int) -> None:
            if phase == "epoch 2":
                sql(store_uri, "DROP TABLE metrics")

    with caplog.at_level(logging.WARNING):
        result = train(small(store_uri, "tracking.log_model=false"), output=tmp_path / "model", observer=Saboteur())
    assert len(result.epochs) == 3
    assert load_model(tmp_path / "model").predict(["a text"])
    assert "MLflow could not take metrics: " in caplog.text
    assert f"metric values could not be written to {store_uri}" in caplog.text


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (KeyboardInterrupt(), "KILLED", "interrupted: KeyboardInterrupt"),
        (SystemExit(143), "KILLED", "interrupted: SystemExit"),
        (ValueError("something is wrong"), "FAILED", "ValueError: something is wrong"),
        (MemoryError("x" * 10000), "FAILED", "MemoryError: xxx"),
    ],
)
def test_a_run_is_closed_however_it_ends(store_uri: str, fault: BaseException, status: str, reason: str) -> None:
    with pytest.raises(type(fault)), log_run(open_store(small(store_uri)), "a-run") as log:
        raise fault
    assert run_of(log).info.status == status
    assert run_of(log).info.end_time is not None
    assert run_of(log).data.tags["topwork.reason"].startswith(reason)


@pytest.mark.parametrize("dirty", [False, True])
def test_the_commit_of_the_experiment_is_noted(tmp_path: Path, dirty: bool) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    (tmp_path / "experiment.yaml").write_text("name: one")
    git("init", "--quiet")
    git("add", "experiment.yaml")
    git("commit", "--quiet", "--message", "one")
    if dirty:
        (tmp_path / "experiment.yaml").write_text("name: two")
    assert git_state(tmp_path / "experiment.yaml") == {
        "mlflow.source.git.commit": git("rev-parse", "HEAD"),
        "git.dirty": str(dirty).lower(),
    }


def test_an_experiment_that_git_does_not_know_makes_the_checkout_dirty(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True, timeout=30)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True, timeout=30)
    (tmp_path / "experiment.yaml").write_text("name: one")
    assert git_state(tmp_path / "experiment.yaml")["git.dirty"] == "true"


def test_outside_of_a_checkout_no_commit_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path / "experiment.yaml") == {}
