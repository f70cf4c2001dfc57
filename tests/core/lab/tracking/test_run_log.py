"""A run is written to MLflow whole, and ends there as it ended here."""

import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from run_helpers import epoch, open_small_store, run_of, small, sql
from small_experiment import QUICKSTART
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation import prepare
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import HeadFigure
from topwork.lab.result import Result
from topwork.lab.runs import train
from topwork.lab.tracking.run_log import RunLog, git_state, log_run
from topwork.lab.tracking.store import flatten
from topwork.registry import discover
from topwork_plugins.heads.binary import BinaryConfig

REVIEWS = QUICKSTART.parent / "data" / "synthetic_reviews.csv"
SETTINGS = ("optimizer.heads_lr=0.003", "training={epochs: 3, batch_size: 16, device: cpu}")


@dataclass(frozen=True)
class TrackedRun:
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
def tracked(_migrated_store: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> TrackedRun:
    """Train once."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = small(f"tracking.uri={uri}", *SETTINGS)
    result = train(experiment, output=folder / "model")
    client = MlflowClient(tracking_uri=uri)
    return TrackedRun(experiment, result, client, client.get_run(str(result.run_id)))


def test_a_run_is_finished_and_has_its_name(tracked: TrackedRun) -> None:
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
def test_every_setting_is_a_flat_parameter(tracked: TrackedRun, name: str, value: str) -> None:
    assert tracked.run.data.params[name] == value


def test_no_setting_is_left_out(tracked: TrackedRun) -> None:
    assert flatten(tracked.experiment.dump()).keys() - tracked.run.data.params.keys() == {"name"}  # MLflow has it


def test_the_plan_is_in_parameters_and_in_an_artifact(tracked: TrackedRun) -> None:
    plan, params = json.loads(tracked.text("plan.json")), tracked.run.data.params
    by_group = [int(params[f"plan.trainable.{group}"]) for group in ("heads", "backbone")]
    assert int(params["plan.trainable"]) == sum(by_group)
    assert int(params["plan.frozen"]) == plan["frozen"]
    assert plan == prepare(tracked.experiment).plan.dump()


@pytest.mark.parametrize("name", ["validation/sentiment/accuracy", "training/category/loss", "validation/loss"])
def test_metrics_have_a_value_for_each_epoch(tracked: TrackedRun, name: str) -> None:
    expected = [(epoch.number, epoch.metrics[name]) for epoch in tracked.result.epochs]
    assert tracked.history(name) == expected
    assert [step for step, _ in expected] == [1, 2, 3]


def test_learning_rates_and_speeds_are_metrics_too(tracked: TrackedRun) -> None:
    assert tracked.history("learning_rate/heads") == [(1, 0.003), (2, 0.003), (3, 0.003)]
    assert tracked.history("learning_rate/backbone") == [(1, 5e-5), (2, 5e-5), (3, 5e-5)]
    assert [step for step, _ in tracked.history("texts_per_second/training")] == [1, 2, 3]
    assert tracked.run.data.metrics["texts_per_second/encoding"] > 0


def test_where_activations_are_is_noted(tracked: TrackedRun) -> None:
    metrics, tags = tracked.run.data.metrics, tracked.run.data.tags
    texts = prepare(tracked.experiment).plan.corpus_size.distinct_texts
    assert tracked.history("activations/texts") == [(0, texts)]
    assert tracked.history("activations/found") == [(0, 0)]
    assert metrics["texts_per_second/encoding"] > 0
    assert tags["activations.where"] == "memory"
    assert tags["activations.note"].startswith("it would not pay: with ")


def test_final_figures_come_with_their_intervals(tracked: TrackedRun) -> None:
    metrics = tracked.run.data.metrics
    for name, figure in tracked.result.estimates.items():
        ends = {"": figure.value, "/low": figure.low, "/high": figure.high}
        known = {f"test/{name}{end}": value for end, value in ends.items() if not math.isnan(value)}
        assert {one: metrics[one] for one in known} == pytest.approx(known)
    assert metrics["best_epoch"] == tracked.result.best_epoch


def test_a_run_has_its_files(tracked: TrackedRun) -> None:
    assert set(tracked.artifacts()) == {
        "experiment.yaml",
        "experiment.resolved.yaml",
        "plan.json",
        "data.json",
        "outputs.safetensors",
        "warnings.txt",
        "figures/learning_curves.png",
        "figures/confusion_sentiment.png",
        "figures/confusion_sentiment.csv",
        "figures/confusion_category.png",
        "figures/confusion_category.csv",
        "figures/per_class_category.png",
        "figures/per_class_category.csv",
    }


def test_the_experiment_is_kept_as_written_and_as_resolved(tracked: TrackedRun) -> None:
    assert tracked.text("experiment.yaml") == QUICKSTART.read_text()
    resolved = YAML(typ="safe").load(tracked.text("experiment.resolved.yaml"))
    assert resolved == tracked.experiment.dump()
    again = Experiment.model_validate(resolved, context={"registry": discover()})
    assert again.dump() == tracked.experiment.dump()


def test_the_source_is_an_input_with_its_digest(tracked: TrackedRun) -> None:
    (source,) = tracked.run.inputs.dataset_inputs
    digest = hashlib.sha256(REVIEWS.read_bytes()).hexdigest()
    assert source.dataset.name == "reviews"
    assert source.dataset.digest == digest[:36]
    assert json.loads(source.dataset.source) == {"uri": REVIEWS.as_uri()}
    assert tracked.run.data.tags["data.digest"] == digest


def test_versions_and_plugins_are_tags(tracked: TrackedRun) -> None:
    tags = tracked.run.data.tags
    for package in ("topwork", "torch", "transformers", "mlflow"):
        assert tags[f"version.{package}"] == version(package)
    assert tags["plugin.backbone.tiny"] == "tiny-plugin 1.5"
    assert tags["plugin.freeze_strategy.all_except"] == f"topwork {version('topwork')}"
    assert {f"plugin.head.{kind}" for kind in ("binary", "classification")} <= tags.keys()


@pytest.mark.slow
@pytest.mark.reliability("D57")
def test_a_large_experiment_has_all_its_parameters(log: RunLog) -> None:
    tasks = {f"task{number}": Task(label="sentiment", head=BinaryConfig(hidden=())) for number in range(40)}
    experiment = small(f"tracking.uri={log.store.uri}").model_copy(update={"tasks": tasks})
    log.log_start(prepare(experiment), discover())
    assert flatten(experiment.dump()).keys() - run_of(log).data.params.keys() == {"name"}


@pytest.mark.slow
def test_an_experiment_made_in_python_is_kept_as_resolved(log: RunLog) -> None:
    read = small(f"tracking.uri={log.store.uri}")
    experiment = Experiment.model_validate(read.dump(), context={"registry": discover()})
    log.log_start(prepare(experiment), discover())
    uri = f"{run_of(log).info.artifact_uri}/experiment.yaml"
    text = Path(mlflow.artifacts.download_artifacts(uri)).read_text()
    assert YAML(typ="safe").load(text) == experiment.dump()


KEY = "5e" * 32


@pytest.mark.parametrize(
    ("report", "found", "speed"),
    [
        (EncodingReport(texts=80, encoded=80, seconds=4.0, where="store", note=KEY), 0, 20.0),
        (EncodingReport(texts=80, encoded=20, seconds=4.0, where="store", note=KEY), 60, 5.0),
        (EncodingReport(texts=80, encoded=0, seconds=4.0, where="store", note=KEY), 80, None),
        (EncodingReport(texts=80, encoded=80, seconds=4.0, where="memory", note="training.store is off"), 0, 20.0),
        (EncodingReport(texts=80, encoded=0, seconds=4.0, where="recomputed", note="training.store is off"), 0, None),
        (EncodingReport(texts=80, encoded=0, seconds=4.0, where="token ids", note="the first stage trains"), 0, None),
    ],
)
def test_every_way_of_getting_activations_is_noted(
    log: RunLog, report: EncodingReport, found: int, speed: float | None
) -> None:
    log.encoded(report)
    data = run_of(log).data
    assert data.tags["activations.where"] == report.where
    assert data.tags["activations.note"] == report.note
    assert data.metrics["activations/texts"] == 80
    assert data.metrics["activations/found"] == found
    assert data.metrics.get("texts_per_second/encoding") == speed


@pytest.mark.slow
def test_what_is_found_in_the_store_is_noted(store_uri: str, tmp_path: Path) -> None:
    runs = [
        train(small(f"tracking.uri={store_uri}", "training.store=require", "training.epochs=1"), output=tmp_path / name)
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


@pytest.mark.slow
def test_a_run_in_phases_notes_its_sizes_and_rates(store_uri: str, tmp_path: Path) -> None:
    experiment = small(f"tracking.uri={store_uri}", "training.epochs=3", "freeze={kind: gradual}")
    result = train(experiment, output=tmp_path / "model")
    client, plan = MlflowClient(tracking_uri=store_uri), prepare(experiment).plan
    params = client.get_run(str(result.run_id)).data.params
    sizes = {group.name: plan.size(group) for group in plan.phases[-1].groups}
    assert {name: int(params[f"plan.trainable.{name}"]) for name in ("heads", "backbone")} == sizes
    assert int(params["plan.trainable"]) == plan.trainable_numbers == sum(sizes.values())
    history = client.get_metric_history(str(result.run_id), "learning_rate/backbone")
    assert [metric.step for metric in history] == [2, 3]
    reports = client.get_metric_history(str(result.run_id), "activations/texts")
    assert [metric.step for metric in reports] == [phase.first - 1 for phase in plan.phases]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "KILLED", "interrupted: KeyboardInterrupt"),
        (SystemExit(143), "KILLED", "interrupted: SystemExit"),
        (ValueError("something is wrong"), "FAILED", "ValueError: something is wrong"),
        (MemoryError("x" * 10000), "FAILED", "MemoryError: xxx"),
    ],
)
def test_a_run_is_closed_however_it_ends(store_uri: str, error: BaseException, status: str, reason: str) -> None:
    with pytest.raises(type(error)), log_run(open_small_store(store_uri), "a-run") as log:
        raise error
    assert run_of(log).info.status == status
    assert run_of(log).info.end_time is not None
    assert run_of(log).data.tags["topwork.reason"].startswith(reason)


@pytest.mark.parametrize("dirty", [False, True])
def test_the_commit_of_the_experiment_is_noted(tmp_path: Path, dirty: bool) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

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
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    (tmp_path / "experiment.yaml").write_text("name: one")
    assert git_state(tmp_path / "experiment.yaml")["git.dirty"] == "true"


def test_outside_of_a_checkout_no_commit_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path / "experiment.yaml") == {}


def test_a_run_that_ended_well_is_finished(store_uri: str) -> None:
    with log_run(open_small_store(store_uri), "a-run") as log:
        log.epoch(epoch(1))
    run = run_of(log)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a-run")
    assert "topwork.reason" not in run.data.tags


def test_figures_of_a_validation_split_are_not_called_those_of_test_rows(log: RunLog, tracked: TrackedRun) -> None:
    log.log_result(replace(tracked.result, split="validation"))
    metrics = run_of(log).data.metrics
    name, estimate = next(iter(tracked.result.estimates.items()))
    assert metrics[f"best/validation/{name}"] == estimate.value
    assert not any(name.startswith("test/") for name in metrics)


def test_a_head_whose_figure_cannot_be_drawn_costs_only_the_figure(
    log: RunLog, tracked: TrackedRun, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(tracked.experiment)
    head = prepared.model.tasks["category"]

    def draw(*given: object) -> Figure:
        raise ValueError("no ink")

    broken = replace(head, figures=[HeadFigure("sketch", draw), *head.figures])
    examples = prepared.load_examples(prepared.plan.phases[0], torch.device("cpu"), Observer())[0]["test"]
    nothing = {task: torch.zeros(examples.count, 3) for task in prepared.model.tasks}
    outputs = prepared.split_outputs("test", nothing, examples)
    log.log_head_figures({"category": broken}, outputs)
    assert "figures/sketch_category.png could not be logged to MLflow: ValueError: no ink" in caplog.text
    assert [one.path for one in log.store.client.list_artifacts(log.run_id, "figures")] == [
        "figures/confusion_category.csv",
        "figures/confusion_category.png",
        "figures/per_class_category.csv",
        "figures/per_class_category.png",
    ]


def test_a_run_that_cannot_be_begun_is_said_with_what_to_do(store_uri: str) -> None:
    store = open_small_store(store_uri)
    sql(store_uri, "CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(StorageError) as caught, log_run(store, "run"):
        pytest.fail("there is no run")
    message = str(caught.value)
    assert message.startswith(f"no run can be begun in the MLflow store {store_uri}: ")
    assert "disk is full" in message
    assert message.endswith("; fix that, or train without it: --set tracking.enabled=false")
    assert len(message.splitlines()) == 1
