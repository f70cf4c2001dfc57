"""What a run's folder says is read without trust."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from topwork.errors import StorageError
from topwork.lab.run_record import RunRecord, find_runs, model_path, read_record, run_path, trainings_in, unsent_in

RECORD: dict[str, Any] = {"name": "a-run", "model": "../../m", "experiment": {"name": "x"}}


def write(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(RECORD | changes))
    return path


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = RunRecord(**RECORD, mlflow={"": "abc"}, inexact=["threads"])
    (tmp_path / "run.json").write_text(record.model_dump_json())
    assert read_record(tmp_path) == record
    assert record.state == "unfinished"
    assert len(record.id) == 16


def test_the_folder_of_a_run_is_beside_its_model(tmp_path: Path) -> None:
    assert run_path(Path("models/x")) == Path("models/runs/x")
    path = write(tmp_path / "runs" / "m")
    assert model_path(path, read_record(path)) == tmp_path / "m"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "run.json cannot be read: "),
        ("[]", "run.json is damaged: "),
        ("{}", "run.json is damaged: name: Field required; model: Field required"),
        (
            '{"format": 2, "topwork": "9.0"}',
            r"has format 2, this topwork \(.*\) reads format 1; use topwork 9\.0, which",
        ),
        (json.dumps(RECORD | {"state": "happy"}), "run.json is damaged: state: "),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StorageError, match=message):
        read_record(tmp_path)


@pytest.mark.reliability("A11")
def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is no run: it has no run\.json; topwork runs shows those there are"):
        read_record(tmp_path / "nothing")


def test_runs_are_found_beside_models(tmp_path: Path) -> None:
    first, second = write(tmp_path / "runs" / "b"), write(tmp_path / "models" / "runs" / "a")
    (tmp_path / "runs" / "other").mkdir()
    assert set(find_runs([tmp_path, tmp_path / "models", tmp_path / "none"])) == {first, second}


def test_trainings_are_those_of_which_something_is_kept(tmp_path: Path) -> None:
    assert trainings_in(tmp_path) == {}
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "result.json").touch()
    (tmp_path / "seed-1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "unsent").mkdir()
    (tmp_path / "unsent" / "00000001.json").touch()
    (tmp_path / "unsent" / ".00000002.json.x").touch()
    assert trainings_in(tmp_path) == {"": tmp_path, "seed-0": tmp_path / "seed-0", "seed-1": tmp_path / "seed-1"}
    assert [path.name for path in unsent_in(tmp_path)] == ["00000001.json"]


def test_nothing_heavy_is_imported_to_read_it() -> None:
    code = "import sys, topwork.cli.show_runs; print(sorted({'torch', 'mlflow', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
