"""A run in several processes gives what it gives in one, goes on exactly, and says what is wrong once."""

import json
import logging
import signal
from pathlib import Path

import psutil
import pytest
import safetensors.torch
from mlflow import MlflowClient

import parallel_runs
import torchrun
from small_encoders import write_encoder
from topwork.experiment.schema import Training
from topwork.lab.parallel_run import join_processes, silent
from waiting import wait_for

#: How far weights may be from those of one process after two epochs, by the precision of training.
BOUND = {"float32": 1e-5, "bfloat16": 1e-2}


@pytest.mark.slow
def test_weights_and_figures_of_two_processes_are_those_of_one(tmp_path: Path, store_uri: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        parallel_runs.write_inputs(folder)
        parallel_runs.write_experiments(folder)
    environment = {"MLFLOW_TRACKING_URI": store_uri, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    code, printed, errors = torchrun.run(2, [parallel_runs.__file__, str(two)], two, environment)
    assert (code, printed) == (0, ""), errors
    assert "warning" not in errors.lower()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(one)
        results = parallel_runs.train_all(one, one / "models")
    for name, result in results.items():
        figures = {metric: one.value for metric, one in result.estimates.items()}
        for number in (0, 1):  # every process returns the main one's result
            found = json.loads((two / f"results-{number}.json").read_text())
            assert found["figures"][name] == pytest.approx(figures, abs=1e-6, nan_ok=True), name
            assert found["warnings"][name] == result.warnings
    weights = sorted(path.relative_to(one) for path in one.glob("models/**/weights.safetensors"))
    assert len(weights) == 6
    assert weights == sorted(path.relative_to(two) for path in two.glob("models/**/weights.safetensors"))
    for file in weights:
        expected, found = (safetensors.torch.load_file(folder / file) for folder in (one, two))
        assert expected.keys() == found.keys()
        bound = BOUND["bfloat16" if "bfloat16" in str(file) else "float32"]
        assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < bound, file
    client = MlflowClient(tracking_uri=store_uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == 4 + 3  # of several seeds one for each, and one that they are below
    assert {run.info.status for run in runs} == {"FINISHED"}


COMMAND = [
    "-m",
    "topwork",
    "train",
    "pieces.yaml",
    "--set",
    "backbone.model=dropping",
    "--set",
    "tracking.enabled=false",
]
OFTEN = ["--set", "training.checkpoint_minutes=0.000001", "--set", "training.epochs=8"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an experiment whose encoder has dropout."""
    parallel_runs.write_inputs(tmp_path)
    parallel_runs.write_experiments(tmp_path)
    write_encoder(tmp_path / "dropping", "bert")
    return tmp_path


@pytest.mark.slow
def test_a_run_that_is_ended_goes_on_to_the_same_bits_with_as_many_processes_alone(place: Path) -> None:
    code, _, errors = torchrun.run(2, [*COMMAND, *OFTEN, "--output", "models/whole"], place)
    assert code == 0, errors
    assert errors.count("trained in 2 processes, of which each draws its own dropout") == 1

    started = torchrun.start(2, [*COMMAND, *OFTEN, "--output", "models/ended"], place)
    checkpoints = place / "models" / "runs" / "ended" / "checkpoints"
    wait_for(lambda: list(checkpoints.glob("000001-0*")))
    started.send_signal(signal.SIGTERM)
    assert started.wait() != 0
    assert (place / "errors.txt").read_text().count("go on with: torchrun --nproc-per-node 2 -m topwork resume") == 1

    code, _, errors = torchrun.run(3, [*COMMAND, *OFTEN, "--output", "models/ended"], place)
    assert code != 0
    assert errors.count("error: numerics: processes: 2 then, 3 now") == 1

    before = set(checkpoints.iterdir())
    started = torchrun.start(2, ["-m", "topwork", "resume", "models/runs/ended"], place)
    wait_for(lambda: set(checkpoints.glob("0*")) - before)
    (other,) = [one for one in psutil.Process(started.pid).children() if one.environ().get("RANK") == "1"]
    other.kill()
    assert started.wait() != 0
    assert (place / "errors.txt").read_text().count("another process of this training has ended") == 1
    assert not (place / "models" / "ended").exists()

    code, printed, errors = torchrun.run(2, ["-m", "topwork", "resume", "models/runs/ended"], place)
    assert code == 0, errors
    assert "going on after" in printed
    one, other = ((place / "models" / name / "weights.safetensors").read_bytes() for name in ("whole", "ended"))
    assert one == other


@pytest.mark.slow
def test_what_is_wrong_is_said_once(place: Path) -> None:
    code, printed, errors = torchrun.run(2, [*COMMAND, "--set", "trainig.epochs=3"], place)
    assert code != 0
    assert printed == ""
    assert errors.count("trainig: unknown key; did you mean training?") == 1
    code, _, errors = torchrun.run(2, ["-m", "topwork", "plan", "pieces.yaml"], place)
    assert code != 0
    assert errors.count("topwork plan cannot be run with torchrun") == 1


def test_one_process_waits_for_no_other() -> None:
    assert join_processes(Training(device="cpu")).count == 1


def test_other_processes_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with silent():
        logging.getLogger("topwork.engine").warning("said by the main process")
    logging.getLogger("topwork.engine").warning("said here")
    assert [record.message for record in caplog.records] == ["said here"]
