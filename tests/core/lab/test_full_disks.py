"""A disk that is full costs a run nothing that was written before."""

import logging
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from checkpoint_helpers import assert_same
from disks import largest_file, small_disk
from run_helpers import small
from topwork.engine.model_folder import load_model
from topwork.engine.observer import Epoch, Observer
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.errors import StorageError
from topwork.lab.runs import train

LONG = "training={epochs: 4, batch_size: 16, device: cpu, patience: null, checkpoint_minutes: 0.000001}"

STATE = {"weights": torch.randn(200_000)}  # 800 kB

BIG = {"weights": torch.randn(400_000)}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.reliability("A20")
def test_a_checkpoint_that_does_not_fit_the_disk_leaves_the_one_before_and_no_rest(tmp_path: Path) -> None:
    with small_disk("size=3m") as disk:
        folder = CheckpointFolder(disk / "checkpoints")
        folder.save(1, 0, STATE)
        (disk / "theirs").write_bytes(bytes(1_500_000))
        with pytest.raises(StorageError) as caught:
            folder.save(2, 0, STATE)
        assert str(caught.value).startswith(
            f"{disk / 'checkpoints' / '000002-000000000'} needs 0.9 MB, and 0.8 MB are free"
        )
        assert str(caught.value).endswith("; make room, or give a folder on another disk")
        assert names_in(folder.path) == ["000001-000000000"]
        assert_same(folder.load(), STATE)


@pytest.mark.reliability("A20")
def test_a_disk_that_others_fill_meanwhile_leaves_the_checkpoint_before_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with small_disk("size=3m") as disk:
        folder = CheckpointFolder(disk / "checkpoints")
        folder.save(1, 0, STATE)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**9))  # so it was when it was asked
        with pytest.raises(
            StorageError, match=r"000002-000000000 could not be written: .*No space left on device.*; it needs 2\.9 MB"
        ):
            folder.save(2, 0, {"weights": torch.randn(700_000)})
        assert names_in(folder.path) == ["000001-000000000"]
        assert_same(folder.load(), STATE)


@pytest.mark.reliability("A20")
def test_a_checkpoint_that_outgrows_a_quota_leaves_the_one_before_and_no_rest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with largest_file(1_000_000):
        folder.save(1, 0, STATE)
        with pytest.raises(
            StorageError, match=r"000002-000000000 could not be written: .*File too large.*; it needs 1\.7 MB there"
        ):
            folder.save(2, 0, BIG)
    assert names_in(folder.path) == ["000001-000000000"]
    assert_same(folder.load(), STATE)
    folder.save(2, 0, BIG)
    assert names_in(folder.path) == ["000001-000000000", "000002-000000000"]


READ_ONLY = """\
import sys
from pathlib import Path
from topwork.engine.training.checkpoint_folder import CheckpointFolder
from topwork.errors import StorageError
try:
    CheckpointFolder(Path(sys.argv[1])).save(2, 0, {})
except StorageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.reliability("A20", "B28")
def test_a_folder_that_became_read_only_is_named(tmp_path: Path) -> None:
    with small_disk("size=3m") as disk:
        CheckpointFolder(disk / "checkpoints").save(1, 0, STATE)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        command = [sys.executable, "-c", READ_ONLY, str(disk / "checkpoints")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"{disk / 'checkpoints' / '000002-000000000'} could not be written: ")
        assert_same(CheckpointFolder(disk / "checkpoints").load(), STATE)


@pytest.mark.slow
@pytest.mark.reliability("A20")
def test_a_run_whose_checkpoints_no_longer_fit_trains_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Filling(Observer):
        """Takes the room that is left after the second epoch."""

        def epoch(self, epoch: Epoch) -> None:
            if epoch.number == 2:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                (disk / "theirs").write_bytes(bytes(free))
            elif epoch.number == 4:
                (disk / "theirs").unlink()

    whole = train(small("tracking.enabled=false", LONG), output=tmp_path / "whole")
    with small_disk("size=6m") as disk, caplog.at_level(logging.WARNING):
        result = train(small("tracking.enabled=false", LONG), output=disk / "model", observer=Filling())
        first, second = (dict(load_model(folder).model.state_dict()) for folder in (tmp_path / "whole", disk / "model"))
        assert names_in(disk) == ["model", "runs"]
        assert [path.name for path in (disk / "runs" / "model").rglob("*")] == ["run.json"]
    assert "no checkpoint was written, and those before it are untouched: " in caplog.text
    assert_same(first, second)
    assert [one.metrics for one in result.epochs] == [one.metrics for one in whole.epochs]


@pytest.mark.reliability("A20")
def test_a_disk_that_is_full_at_the_very_end_costs_nothing_but_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, state: str, reason: str = "") -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("topwork.lab.run_folder.RunFolder.end", fail)
    with caplog.at_level(logging.WARNING):
        assert train(small("tracking.enabled=false", LONG), output=tmp_path / "model").estimates
    assert f"that run {tmp_path / 'runs' / 'model'} is finished could not be noted: no space left" in caplog.text


def test_a_run_for_whose_checkpoints_there_is_no_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("tracking.enabled=false", LONG)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9 if "runs" not in str(path) else 1000)
    )
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"runs/model needs 0\.\d MB, and 0\.0 MB are free there; make room"):
        train(experiment, output=tmp_path / "model")
    assert names_in(tmp_path / "runs") == ["other"]
