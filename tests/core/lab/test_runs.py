"""A run goes from an experiment to a folder and an MLflow run, and ends properly whatever happens to it."""

import logging
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from torch import Tensor

from run_helpers import only_run, small
from small_experiment import QUICKSTART
from topwork.engine.observer import Observer
from topwork.engine.trained_model import load_model
from topwork.errors import StorageError, TopworkError, TrainingError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Classes, Head
from topwork.lab.runs import train
from topwork.lab.tracking.store import Store, open_store, tracking_uri
from topwork_plugins.heads.binary import BinaryConfig


def untracked(*settings: str) -> Experiment:
    return small("tracking.enabled=false", *settings)


def test_a_run_without_tracking_writes_the_model_and_nothing_else(tmp_path: Path) -> None:
    result = train(untracked())
    assert result.run_id is None
    assert result.tracking_uri is None
    assert result.folder == Path("models") / result.name
    assert {path.name for path in tmp_path.iterdir()} == {"models"}
    assert load_model(result.folder).predict(["a text"])


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
    for task, (names, counts) in result.confusion.items():
        assert sum(map(sum, counts)) == rows
        right = sum(counts[number][number] for number in range(len(names)))
        assert right / rows == pytest.approx(result.estimates[f"{task}/accuracy"].value)


def test_truncated_texts_are_said_in_the_log_and_in_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = train(untracked(), output=tmp_path / "model")
    assert any("of 80 texts are longer than the backbone's max_length" in warning for warning in result.warnings)
    assert set(result.warnings) <= set(caplog.messages)


class Raising(Observer):
    """Raises when an epoch begins."""

    def __init__(self, fault: BaseException) -> None:
        self.fault = fault

    def begin(self, phase: str, total: int) -> None:
        if phase == "epoch 2":
            raise self.fault


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [(KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"), (RuntimeError("out of ink"), "FAILED", "out of ink")],
)
def test_an_interrupted_run_is_closed_with_its_reason(
    store_uri: str, tmp_path: Path, fault: BaseException, status: str, reason: str
) -> None:
    with pytest.raises(type(fault)):
        train(small(f"tracking.uri={store_uri}"), output=tmp_path / "model", observer=Raising(fault))
    run = only_run(store_uri)
    assert run.info.status == status
    assert reason in run.data.tags["topwork.reason"]
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


class Failing(BinaryConfig):
    """A head whose loss is not a number from the second epoch on."""

    def build(self, width: int, labels: Classes) -> Head:
        head, steps = super().build(width, labels), 0

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal steps
            steps += outputs.requires_grad
            return head.loss(outputs, targets) * (math.nan if steps > 3 else 1.0)

        return Head(head.module, loss, head.decode, head.metrics)


def test_a_run_that_diverges_later_leaves_the_best_weights(tmp_path: Path) -> None:
    tasks = {"sentiment": Task(label="sentiment", head=Failing())}
    experiment = untracked().model_copy(update={"tasks": tasks})
    with pytest.raises(TrainingError, match="the weights of epoch 1 are kept; they are in ") as caught:
        train(experiment, output=tmp_path / "model")
    assert str(caught.value).endswith(f"they are in {tmp_path / 'model'}")
    assert load_model(tmp_path / "model").predict(["a text"])[0].keys() == {"sentiment"}


def test_training_outside_the_main_thread_touches_no_handler(tmp_path: Path) -> None:
    handlers: list[object] = []

    class Looking(Observer):
        def begin(self, phase: str, total: int) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    settings = {"output": tmp_path / "model", "observer": Looking()}
    thread = threading.Thread(target=train, args=[untracked("training.epochs=1")], kwargs=settings)
    thread.start()
    thread.join(timeout=60)
    assert (tmp_path / "model" / "model.json").exists()
    assert set(handlers) == {before}


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed_port() -> Iterator[str]:
    yield "http://127.0.0.1:9"


@contextmanager
def broken_server() -> Iterator[str]:
    """A server that answers everything with 500."""

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def no_folder() -> Iterator[str]:
    Path("occupied").touch()
    yield f"sqlite:///{Path.cwd()}/occupied/mlflow.db"


@contextmanager
def no_database() -> Iterator[str]:
    Path("mlflow.db").write_text("this is not a database\n" * 100)
    yield f"sqlite:///{Path.cwd()}/mlflow.db"


@contextmanager
def no_scheme() -> Iterator[str]:
    yield "nonsense://somewhere"


@pytest.mark.parametrize(
    "place",
    [
        closed_port,
        pytest.param(silent_server, marks=pytest.mark.slow),
        broken_server,
        no_folder,
        no_database,
        no_scheme,
    ],
    ids=lambda place: place.__name__,
)
def test_a_store_that_cannot_be_reached_is_said_at_once(place: Callable[[], Iterator[str]], tmp_path: Path) -> None:
    with place() as uri:
        started = time.monotonic()
        with pytest.raises(StorageError) as caught:
            train(small(f"tracking.uri={uri}"), output=tmp_path / "model")
    assert time.monotonic() - started < 10
    assert str(caught.value).startswith(
        (f"the MLflow store {uri} cannot be reached: ", f"the MLflow store {uri} cannot be used: ")
    )
    assert str(caught.value).endswith("mend that, or train without it: --set tracking.enabled=false")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_an_experiment_that_was_deleted_is_not_used_again(store_uri: str) -> None:
    store: Store = open_store(small(f"tracking.uri={store_uri}"))
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TopworkError, match="experiment 'quickstart' was deleted there but keeps its name; restore it"):
        open_store(small(f"tracking.uri={store_uri}"))
    assert open_store(small(f"tracking.uri={store_uri}", "tracking.experiment=another")).experiment_id


@pytest.mark.parametrize(
    ("setting", "variable", "uri"),
    [
        ("null", None, "sqlite:///{here}/mlflow.db"),
        ("null", "http://from.variable", "http://from.variable"),
        ("null", "", "sqlite:///{here}/mlflow.db"),
        ("http://from.file", "http://from.variable", "http://from.file"),
        ("sqlite:///sub/own.db", None, "sqlite:///{here}/sub/own.db"),
    ],
)
def test_the_experiment_comes_before_the_variable(
    setting: str, variable: str | None, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert tracking_uri(small(f"tracking.uri={setting}")) == uri.format(here=tmp_path)


OPEN = """\
import sys
from topwork.experiment.loading import load_experiment
from topwork.lab.tracking.store import open_store
print("ready", flush=True)
sys.stdin.readline()
print(open_store(load_experiment(sys.argv[1], ["tracking.uri=" + sys.argv[2]])).experiment_id)
"""


@pytest.mark.slow
def test_two_processes_may_create_a_store_at_the_same_time(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", OPEN, str(QUICKSTART), uri]
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=30)
    assert [process.returncode for process in processes] == [0, 0], [error for _, error in ends]
    assert ends[0][0] == ends[1][0]
