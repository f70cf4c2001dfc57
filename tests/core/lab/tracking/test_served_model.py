"""A trained model is stored in MLflow with what it needs, and predicts there what its folder predicts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import pandas
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.trained_model import Prediction
from topwork.lab.result import Result
from topwork.lab.runs import train
from waiting import PATIENCE, wait_for


@dataclass(frozen=True)
class Stored:
    """A trained model, the folder in which MLflow has it, and the run of the script that trained it."""

    result: Result
    folder: Path
    around: Run


@contextmanager
def run_of_a_script(uri: str) -> Iterator[str]:
    """What a script of somebody's may have active: a run, in an experiment of its own."""
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment("somebody's")
        with mlflow.start_run() as run:
            yield run.info.run_id
            active = mlflow.active_run()
            assert active is not None
            assert (active.info.run_id, mlflow.get_tracking_uri()) == (run.info.run_id, uri)
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_EXPERIMENT_ID")


@pytest.fixture(scope="module")
def stored(_migrated_store: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Train once, with the model stored, inside a script that has a run of its own."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copy(_migrated_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with run_of_a_script(uri) as around, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_RUN_NAME", "named by a variable")
        result = train(small(f"tracking.uri={uri}", "tracking.log_model=true"), output=folder / "model")
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(str(result.run_id))
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == result.run_id
    assert model.status == "READY"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.params == run.data.params
    return Stored(result, Path(mlflow.artifacts.download_artifacts(model.artifact_location)), client.get_run(around))


def test_a_run_inside_that_of_a_script_leaves_it_alone(stored: Stored) -> None:
    assert (stored.around.data.metrics, stored.around.data.params) == ({}, {})
    assert stored.around.outputs is None or not stored.around.outputs.model_outputs
    assert stored.around.info.status == "FINISHED"


def test_a_run_has_the_name_of_the_variable_and_its_folder_one_of_its_own(stored: Stored) -> None:
    assert stored.result.name == "named by a variable"


def test_the_stored_model_predicts_what_the_folder_predicts(stored: Stored) -> None:
    texts = ["The scale is not reliable at all.", "I found the display a pleasure."]
    table = mlflow.pyfunc.load_model(str(stored.folder)).predict(texts)
    assert table.to_dict("records") == [plain(by_task) for by_task in load_model(stored.result.folder).predict(texts)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # mlflow's way to call pandas
def test_mlflow_evaluates_what_the_stored_model_predicts(stored: Stored) -> None:
    texts = pandas.DataFrame({"text": ["The scale is not reliable at all.", "I found the display a pleasure."]})
    predicted = mlflow.pyfunc.load_model(str(stored.folder)).predict(texts)
    truth = [predicted["category"][0], "another"]
    measured = mlflow.models.evaluate(
        data=texts.assign(truth=truth).join(predicted),
        targets="truth",
        predictions="category",
        model_type="classifier",
        evaluator_config={"log_explainer": False},
    )
    assert measured.metrics["accuracy_score"] == 0.5


def test_the_stored_model_names_the_packages_it_needs(stored: Stored) -> None:
    required = (stored.folder / "requirements.txt").read_text().split()
    assert {f"topwork=={version('topwork')}", "tiny-plugin==1.5"} <= set(required)


def test_nothing_that_is_stored_is_pickled(stored: Stored) -> None:
    suffixes = {path.suffix for path in stored.folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin"}


def plain(predictions: dict[str, Prediction]) -> dict[str, object]:
    """What the stored model says of a text, by column."""
    labels = {task: one.label for task, one in predictions.items()}
    return labels | {f"{task}.probabilities": one.probabilities for task, one in predictions.items()}


def ask(port: int, texts: list[str]) -> tuple[int, str]:
    question = Request(f"http://127.0.0.1:{port}/invocations", json.dumps({"inputs": texts}).encode())
    question.add_header("Content-Type", "application/json")
    try:
        with urlopen(question, timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


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
        answer = ask(port, texts)
        refused = [ask(port, wrong) for wrong in ([], ["fine", " "], ["\ud800"])]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (expected,) = load_model(stored.result.folder).predict(texts)
    assert answer[0] == 200
    assert json.loads(answer[1]) == {"predictions": [plain(expected)]}
    assert [code for code, _ in refused] == [400] * 3
    answers_in_words = [json.loads(body) for _, body in refused]
    assert {body["error_code"] for body in answers_in_words} == {"INVALID_PARAMETER_VALUE"}
    assert [body["message"].rpartition("Error: ")[2] for body in answers_in_words] == [
        "no texts given",
        "1 of 2 texts are empty: number 2",
        "1 of 1 texts are not valid Unicode: number 1",
    ]
