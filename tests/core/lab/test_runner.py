"""One run of several that share what they load and encode."""

from pathlib import Path

import pytest
import torch

from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Observer
from topwork.experiment.schema import Experiment
from topwork.lab.runner import Runner
from topwork.registry import discover

SETTINGS = ["tracking.enabled=false", "training={epochs: 2, batch_size: 16, device: cpu}"]


@pytest.fixture
def runner() -> Runner:
    return Runner(discover(), None, Observer())


def run(runner: Runner, experiment: Experiment, folder: Path | None) -> tuple[object, dict[str, torch.Tensor]]:
    result, outputs = runner.run(runner.prepare(experiment), "a-run", folder, None)
    return result.folder, outputs.outputs


def test_a_run_without_a_folder_saves_nothing(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, outputs = run(runner, small(*SETTINGS), None)
    assert folder == Path()
    assert list(tmp_path.iterdir()) == []
    assert outputs.keys() == {"sentiment", "category"}


def test_a_later_run_is_not_touched_by_those_before(runner: Runner, tmp_path: Path) -> None:
    first = run(runner, small(*SETTINGS), tmp_path / "first")[1]
    run(runner, small(*SETTINGS, "training.seed=5", "training.epochs=3"), None)
    again = run(runner, small(*SETTINGS), None)[1]
    assert all(torch.equal(first[task], again[task]) for task in first)


def test_a_model_of_some_tasks_has_no_others(runner: Runner, tmp_path: Path) -> None:
    run(runner, small(*SETTINGS, "training.tasks=[sentiment]"), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.labels.keys() == {"sentiment"}
    assert loaded.experiment["tasks"].keys() == {"sentiment"}
    (prediction,) = loaded.predict(["a fine book"])
    assert prediction.keys() == {"sentiment"}
