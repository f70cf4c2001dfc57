"""A trained model is stored in MLflow with what it needs, and predicts there what its folder predicts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import pytest
from mlflow import MlflowClient

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.lab.result import Result
from topwork.lab.runs import train
from waiting import PATIENCE, wait_for


@dataclass(frozen=True)
class Stored:
    """A trained model, and the folder in which MLflow has it."""

    result: Result
    folder: Path


@pytest.fixture(scope="module")
def stored(_migrated_store: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Train once, with the model stored."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    result = train(small(f"tracking.uri={uri}", "tracking.log_model=true"), output=folder / "model")
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(str(result.run_id))
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == result.run_id
    return Stored(result, Path(mlflow.artifacts.download_artifacts(model.artifact_location)))


def test_the_stored_model_predicts_what_the_folder_predicts(stored: Stored) -> None:
    texts = ["The scale is not reliable at all.", "I found the display a pleasure."]
    said = mlflow.pyfunc.load_model(str(stored.folder)).predict(texts)
    plain = [{task: prediction.model_dump() for task, prediction in by_task.items()} for by_task in said]
    expected = load_model(stored.result.folder).predict(texts)
    assert plain == [{task: asdict(prediction) for task, prediction in by_task.items()} for by_task in expected]


def test_the_stored_model_names_the_packages_it_needs(stored: Stored) -> None:
    required = (stored.folder / "requirements.txt").read_text().split()
    assert {f"topwork=={version('topwork')}", "tiny-plugin==1.5"} <= set(required)


def test_nothing_that_is_stored_is_pickled(stored: Stored) -> None:
    suffixes = {path.suffix for path in stored.folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin"}


def answers(url: str) -> bool:
    with suppress(OSError), urlopen(url, timeout=5):
        return True
    return False


@pytest.mark.slow
def test_the_stored_model_is_served(stored: Stored, installed: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(stored.folder)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # mlflow looks for uvicorn there
    environment = os.environ | {"PYTHONPATH": str(installed), "PATH": path}
    log = tmp_path / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/ping"))
        assert server.poll() is None, log.read_text()
        texts = ["The scale is not reliable at all."]
        question = Request(f"http://127.0.0.1:{port}/invocations", json.dumps({"inputs": texts}).encode())
        question.add_header("Content-Type", "application/json")
        with urlopen(question, timeout=PATIENCE) as reply:
            answer = json.loads(reply.read())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (expected,) = load_model(stored.result.folder).predict(texts)
    assert answer == {"predictions": [{task: asdict(said) for task, said in expected.items()}]}
