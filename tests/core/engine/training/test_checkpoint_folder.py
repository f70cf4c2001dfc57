"""Checkpoints come back as they were written, or are known to be damaged."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint_helpers import assert_same
from topwork.engine.training.checkpoint_folder import CheckpointFolder, read_checkpoint
from topwork.errors import StorageError, UnrecoverableError

STATE = {"epoch": 3, "score": math.nan, "none": None, "list": [1, "two", {"x": torch.ones(2)}], "empty": {}}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "run" / "checkpoints")


def save(folder: CheckpointFolder, epoch: int, step: int = 0, **more: Any) -> Path:
    folder.save(epoch, step, {"epoch": epoch, "weights": torch.arange(8.0) + epoch, **more})
    return folder.paths()[0]


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(st.characters(codec="utf-8")),
    st.sampled_from([torch.randn(3, 2), torch.tensor(7), torch.zeros(0), torch.ones(2).bool(), torch.randn(2).half(),
                     torch.randn(4, 6)[:, ::2], torch.full((2,), torch.nan)]),
)  # fmt: skip
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
states = st.dictionaries(
    names,
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)),
    max_size=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states)
def test_any_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    folder = CheckpointFolder(tmp_path_factory.mktemp("any") / "checkpoints")
    folder.save(1, 2, state)
    assert_same(folder.load(), state)


def test_without_a_checkpoint_there_is_no_state(folder: CheckpointFolder) -> None:
    assert folder.load() is None
    folder.remove()


def test_the_newest_is_read_and_the_last_two_are_kept(folder: CheckpointFolder) -> None:
    for epoch, step in ((1, 5), (1, 50), (2, 0), (10, 0)):
        save(folder, epoch, step)
    assert [path.name for path in folder.paths()] == ["000010-000000000", "000002-000000000"]
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in folder.paths()}
    state = folder.load()
    assert state is not None
    assert state["epoch"] == 10
    folder.remove()
    assert not folder.path.exists()


def test_a_moment_that_has_one_gets_no_second(folder: CheckpointFolder) -> None:
    first = save(folder, 1)
    before = (first / "state.json").stat().st_mtime_ns
    save(folder, 1)
    assert (first / "state.json").stat().st_mtime_ns == before


def spoil_values(path: Path) -> None:
    written = json.loads((path / "state.json").read_text())
    written["state"]["epoch"] += 1
    (path / "state.json").write_text(json.dumps(written))


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "state.safetensors").write_bytes(content)


def cut(name: str, size: int) -> Any:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:size])


SPOILT = pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_values, "the sha256 of state.json is not the one that it names"),
        (flip_a_bit, "the sha256 of state.safetensors is not the one in state.json"),
        (cut("state.safetensors", 40), "the sha256 of state.safetensors is not the one in state.json"),
        (cut("state.json", 0), "Expecting value"),
        (cut("state.json", 40), "Unterminated string|Expecting"),
        (lambda path: (path / "state.json").write_text("[]"), "state.json has no format"),
        (lambda path: (path / "state.json").unlink(), "No such file"),
        (lambda path: (path / "state.safetensors").unlink(), "No such file"),
        (lambda path: (path / "state.json").write_bytes(b"\xff\xfe"), "decode"),
    ],
    ids=["value", "bit", "truncated", "empty", "half", "list", "no values", "no tensors", "not text"],
)


@SPOILT
@pytest.mark.reliability("A3", "A4", "A9")
def test_where_the_newest_is_damaged_the_one_before_it_is_taken(
    folder: CheckpointFolder, spoil: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 1)
    damaged = save(folder, 2)
    spoil(damaged)
    with caplog.at_level(logging.WARNING):
        state = folder.load()
    assert state is not None
    assert state["epoch"] == 1
    (record,) = caplog.records
    assert record.message.startswith(f"checkpoint {damaged} is damaged: ")
    assert record.message.endswith("; going on from the checkpoint before it, 000001-000000000")
    assert list(folder.path.glob(f"{damaged.name}.unreadable-*"))
    assert save(folder, 2) == damaged  # its name is free again


@SPOILT
@pytest.mark.reliability("A5")
def test_where_none_can_be_read_nothing_is_deleted(folder: CheckpointFolder, spoil: Any, why: str) -> None:
    paths = [save(folder, 1), save(folder, 2)]
    for path in paths:
        spoil(path)
    before = sorted(path.name for path in folder.path.rglob("*"))
    with pytest.raises(UnrecoverableError, match=f"is damaged: .*({why})") as caught:
        folder.load()
    assert caught.value.exit_code == 6
    assert str(caught.value).endswith(
        f"no checkpoint of this training can be read, and nothing was deleted; to train anew, remove "
        f"{folder.path.parent}"
    )
    assert str(caught.value).count("is damaged") == 2
    assert sorted(path.name for path in folder.path.rglob("*")) == before


@pytest.mark.reliability("A13")
def test_one_of_a_newer_format_is_refused(folder: CheckpointFolder) -> None:
    path = save(folder, 1) / "state.json"
    written = json.loads(path.read_text()) | {"format": 2, "topwork": "9.1"}
    del written["sha256"]
    from topwork.engine.training.checkpoint_folder import _sha256_of_values

    path.write_text(json.dumps({**written, "sha256": _sha256_of_values(written)}))
    with pytest.raises(
        StorageError, match=r"has format 2, this topwork \(.*\) reads format 1; use topwork 9\.1, which wrote it"
    ):
        folder.load()


def test_reading_changes_nothing(folder: CheckpointFolder) -> None:
    path = save(folder, 1, more=STATE)
    assert_same(read_checkpoint(path)["more"], STATE)
    assert {one.name for one in path.iterdir()} == {"state.json", "state.safetensors"}


def test_one_that_is_damaged_a_second_time_is_put_aside_again(folder: CheckpointFolder) -> None:
    for _ in range(2):
        save(folder, 1)
        spoil_values(save(folder, 2))
        state = folder.load()
        assert state is not None
        assert state["epoch"] == 1
    assert len(list(folder.path.glob("000002-000000000.unreadable-*"))) == 2


def test_what_cannot_be_written_is_named(folder: CheckpointFolder) -> None:
    with pytest.raises(
        StorageError, match=r"weighting/_extra_state is \{1, 2\}, which cannot be written to a checkpoint"
    ):
        folder.save(1, 0, {"weighting": {"_extra_state": {1, 2}}})
    assert not folder.path.exists()
