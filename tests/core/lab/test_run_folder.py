"""A run's folder keeps what is done, and belongs to one process at a time."""

import os
from pathlib import Path

import pytest
import torch

from checkpoint_helpers import assert_same
from run_helpers import small
from topwork.engine.evaluation.comparison import SplitOutputs
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.observer import Epoch
from topwork.errors import ConfigurationError, StorageError
from topwork.interfaces.labels import Classes
from topwork.lab.result import Result
from topwork.lab.run_folder import RunFolder, dump_experiment, load_recorded_experiment, opened_run
from topwork.lab.run_record import RunRecord, read_record
from topwork.registry import discover

NAN = float("nan")
RESULT = Result(
    name="a-run",
    folder=Path("model"),
    run_id="abc",
    tracking_uri="sqlite:////somewhere",
    split="test",
    estimates={"mood/accuracy": Estimate(1 / 3, NAN, 0.5, 20)},
    epochs=[Epoch(1, {"training/loss": 0.1}, {"heads": 1e-3}, 123.4)],
    best_epoch=1,
    best_epochs={"mood": 1},
    metrics={"training/loss": 0.1},
    warnings=["beware"],
)
OUTPUTS = SplitOutputs(
    split="test",
    texts_sha256={"mood": "0" * 64},
    width=8,
    labels={"mood": Classes(("bad", "good"))},
    outputs={"mood": torch.randn(3, 2)},
    targets={"mood": torch.tensor([0, 1, 1])},
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "m", RunRecord(name="a-run", model="../../m", experiment={}))
    folder.update(identity={"training.epochs": "3"})
    return folder


def test_what_is_finished_of_a_run_comes_back_as_it_was(run: RunFolder) -> None:
    training = run.training("seed-1")
    training.checkpoints.save(2, 0, {"x": torch.ones(2)})
    assert training.position == (2, 0)
    assert run.is_begun()
    training.keep(RESULT, OUTPUTS)
    assert training.is_finished()
    assert not training.checkpoints.paths()
    result, outputs = training.load(Path("elsewhere"), "uri")
    assert repr(result.estimates) == repr(RESULT.estimates)
    assert (result.folder, result.tracking_uri) == (Path("elsewhere"), "uri")
    assert (result.epochs, result.metrics, result.best_epochs) == (RESULT.epochs, RESULT.metrics, RESULT.best_epochs)
    assert_same(outputs.outputs, OUTPUTS.outputs)
    assert read_record(run.path).epochs == {"seed-1": 1}
    assert "somewhere" not in (training.path / "result.json").read_text()


def test_a_damaged_result_is_named(run: RunFolder) -> None:
    training = run.training("seed-1")
    training.keep(RESULT, OUTPUTS)
    (training.path / "result.json").write_text("{}")
    with pytest.raises(StorageError, match=r"result\.json is damaged: .*; remove .*seed-1 to train that again"):
        training.load(None, None)


def test_at_its_end_only_the_record_is_left(run: RunFolder) -> None:
    run.training("seed-0").keep(RESULT, OUTPUTS)
    run.training("seed-1").checkpoints.save(1, 3, {})
    run.training().checkpoints.save(1, 3, {})
    assert [one.name for one in run.trainings()] == ["", "seed-0", "seed-1"]
    run.end("failed", "a reason")
    assert [path.name for path in run.path.rglob("*")] == ["run.json"]
    record = read_record(run.path)
    assert (record.state, record.reason) == ("failed", "a reason")
    assert record.ended is not None
    assert record.ended >= record.begun


@pytest.mark.reliability("A2")
def test_what_a_process_that_was_killed_at_the_very_end_left_is_removed_by_the_same_command(
    run: RunFolder, tmp_path: Path
) -> None:
    run.training().checkpoints.save(1, 3, {})
    run.update(state="finished")
    (tmp_path / "m").mkdir()
    with pytest.raises(StorageError, match="m exists already"), opened_run(small(), "x", tmp_path / "m", alone=False):
        pytest.fail("it was opened")
    assert [path.name for path in run.path.rglob("*")] == ["run.json"]


def test_a_run_that_begins_writes_nothing_by_itself(tmp_path: Path) -> None:
    with opened_run(small(), "a-run", tmp_path / "models" / "m", alone=False) as run:
        assert not run.resumed
        assert run.model == tmp_path / "models" / "m"
        assert not run.path.exists()
    assert not (tmp_path / "models" / "runs").exists()


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_is_not(run: RunFolder, tmp_path: Path) -> None:
    with opened_run(small(), "other", tmp_path / "m", alone=False) as opened:
        assert opened.resumed
        assert opened.record.id == run.record.id
    run.end("finished")
    with opened_run(small(), "other", tmp_path / "m", alone=True) as opened:
        assert not opened.resumed
        assert opened.record.name == "other"
    (tmp_path / "m").mkdir()
    with pytest.raises(StorageError, match="m exists already"), opened_run(small(), "x", tmp_path / "m", alone=False):
        pytest.fail("it was opened")


def test_a_model_of_another_run_is_not_overwritten(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    with (
        pytest.raises(StorageError, match="theirs exists already"),
        opened_run(small(), "x", tmp_path / "theirs", alone=False, path=run.path),
    ):
        pytest.fail("it was opened")


def test_an_experiment_comes_back_with_its_files_from_wherever_the_run_is(tmp_path: Path) -> None:
    experiment = small("training.epochs=3")
    written = dump_experiment(experiment, tmp_path / "runs" / "m")
    assert written["data"]["reviews"]["path"].startswith("..")
    record = RunRecord(name="a-run", model="../../m", experiment=written)
    restored = load_recorded_experiment(tmp_path / "runs" / "m", record, discover())
    assert restored.dump() == experiment.dump()
    moved = load_recorded_experiment(tmp_path / "other" / "m", record, discover())
    expected = os.path.normpath(tmp_path / "other" / "m" / written["data"]["reviews"]["path"])
    assert str(moved.data["reviews"].path) == expected


def test_a_password_is_not_kept(tmp_path: Path) -> None:
    experiment = small("tracking.uri=https://user:secret@example.org")
    written = dump_experiment(experiment, tmp_path)
    assert "secret" not in str(written)
    record = RunRecord(name="a-run", model="../m", experiment=written)
    with pytest.raises(
        ConfigurationError, match=r"the password of tracking\.uri is not kept in the run; go on with the"
    ):
        load_recorded_experiment(tmp_path, record, discover())


def test_an_experiment_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    written = dump_experiment(small(), tmp_path)
    written["training"]["epochs"] = "many"
    record = RunRecord(name="a-run", model="../m", experiment=written)
    with pytest.raises(ConfigurationError, match=r"run .*: training\.epochs: "):
        load_recorded_experiment(tmp_path, record, discover())
