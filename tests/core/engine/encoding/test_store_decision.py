"""Whether the activation store serves a run is decided before anything is computed, and said."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from encoding_helpers import Counter, assert_same, choose, read
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import cache_folder
from topwork.engine.encoding.store.shard_file import ShardFile
from topwork.engine.preparation import Preparation, prepare
from topwork.errors import StorageError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment
from topwork_plugins.freeze_strategies.last_layers import LastLayersConfig
from topwork_plugins.freeze_strategies.none import NoneConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave 10 kB of the disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))


def no_room(folder: Path) -> str:
    return (
        f"it needs 0.1 MB and {folder} has 0.0 MB free; "
        "set TOPWORK_CACHE to a folder with more room, or training.activation_dtype: float16 to need half"
    )


@pytest.mark.slow
def test_a_store_that_is_off_neither_reads_nor_writes(on_minilm: Make) -> None:
    experiment = on_minilm(training={"store": "off"})
    read(prepare(on_minilm()))
    before = {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*")}
    _, said = read(prepare(experiment))
    assert (said.where, said.found, said.note) == ("memory", 0, "training.store is off")
    assert {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*")} == before


@pytest.mark.slow
def test_with_nothing_left_of_the_cut_there_is_nothing_to_keep(on_minilm: Make) -> None:
    prepared = prepare(on_minilm(freeze=NoneConfig()))
    counter = Counter()
    data, said = read(prepared, counter)
    assert (said.where, said.note) == ("token ids", "the first stage trains, so there is nothing to keep")
    assert (counter.phases, said.texts_per_second) == ([], None)
    assert data["train"].batch(torch.arange(3)).hidden.dtype == torch.int64
    assert not cache_folder().exists()


def test_what_is_quickly_computed_is_not_stored(on_minilm: Make) -> None:
    _, said = read(prepare(on_minilm(freeze=LastLayersConfig(count=6))))
    assert said.where == "memory"
    assert said.note == "it would not pay: with 0 operations per byte, computing again is as quick as a disk"
    assert not cache_folder().exists()


@pytest.mark.slow
def test_what_is_quickly_computed_is_stored_when_that_is_required(on_minilm: Make) -> None:
    experiment = on_minilm(freeze=LastLayersConfig(count=6), training={"store": "require"})
    assert [read(prepare(experiment))[1].found for _ in range(2)] == [0, 60]


def test_a_full_disk_is_not_filled_further(on_minilm: Make, tmp_path: Path, full_disk: None) -> None:
    choice = choose(prepare(on_minilm()))
    assert (choice.store, choice.reason) == (None, no_room(tmp_path))
    assert choice.stored is not None
    assert len(choice.stored.missing) == 60
    assert not cache_folder().exists()


@pytest.mark.slow
def test_a_full_disk_does_not_matter_where_nothing_is_missing(on_minilm: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read(prepare(on_minilm()))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert read(prepare(on_minilm()))[1].found == 60


@pytest.mark.slow
def test_a_tenth_of_the_free_disk_is_left(on_minilm: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(on_minilm())
    assert prepared.plan.kept_bytes(prepared.plan.phases[0]) == 60 * 384 * 4
    needed = 60 * (384 * 4 + 32 + 8)  # with a digest and an offset for each text
    for free, reason in ((int(needed / 0.9) + 1, ""), (int(needed / 0.9) - 1, "it needs 0.1 MB")):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        assert choose(prepared).reason[:15] == reason


@pytest.mark.slow
def test_a_cache_folder_that_is_a_file_is_not_used(
    on_minilm: Make, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("file", "not a folder")
    monkeypatch.setenv("TOPWORK_CACHE", str(file))
    _, said = read(prepare(on_minilm()))
    assert said.where == "memory"
    assert said.note.startswith(f"{file}/activations/")
    assert said.note.endswith("/manifest.json cannot be read: Not a directory")
    assert file.read_text() == "not a folder"


@pytest.mark.slow
@pytest.mark.reliability("B28")
def test_a_cache_folder_that_cannot_be_written_is_told_and_not_used(
    on_minilm: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        _, said = read(prepare(on_minilm()))
    assert (said.where, said.found) == ("memory", 0)
    assert said.note.startswith(f"{tmp_path}/cache/activations/")
    assert said.note.endswith(" cannot be written: Not a directory")
    assert f"going on without adding to the activation store: {said.note}" in caplog.text


@pytest.mark.slow
@pytest.mark.reliability("B27")
def test_a_disk_that_fills_up_while_encoding_does_not_stop_the_run(
    on_minilm: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ActivationStore, shard: ShardFile) -> None:
        raise StorageError("no space left on device")

    plain = train(on_minilm(training={"store": "off"}))
    monkeypatch.setattr(ActivationStore, "add", fail)
    went_on = train(on_minilm())
    assert (went_on.reports[0].where, went_on.reports[0].note) == ("memory", "no space left on device")
    assert_same(plain, went_on)
    with pytest.raises(StorageError, match=r"^no space left on device$"):
        train(on_minilm(training={"store": "require"}))


WRITTEN = """\
name: written
data: {{r: {{path: {file}}}}}
backbone: {{kind: minilm, max_length: 16}}
pooling: {{kind: cls}}
tasks: {{category: {{label: category}}}}
freeze: {freeze}
training:
  device: cpu
  monitor: training/loss
  store: require
"""


@pytest.fixture
def written(reviews_file: Path, write: Callable[..., Path]) -> Callable[..., Preparation]:
    """Prepare an experiment out of a file, in which the store is required."""

    def build(freeze: str = "{kind: all}") -> Preparation:
        return prepare(load_experiment(write("experiment.yaml", WRITTEN.format(file=reviews_file, freeze=freeze))))

    return build


def refusal(prepared: Preparation, tmp_path: Path) -> str:
    """Why a required store does not serve, without the place of the setting."""
    with pytest.raises(StorageError) as caught:
        read(prepared)
    place, _, reason = str(caught.value).partition(": require, but ")
    assert place.startswith(f"{tmp_path}/experiment.yaml:10:3: training.store")
    return reason


@pytest.mark.slow
def test_requiring_the_store_where_there_is_nothing_to_keep_is_an_error(
    written: Callable[..., Preparation], tmp_path: Path
) -> None:
    assert refusal(written("{kind: none}"), tmp_path) == "the first stage trains, so there is nothing to keep"


def test_requiring_the_store_on_a_full_disk_is_an_error(
    written: Callable[..., Preparation], tmp_path: Path, full_disk: None
) -> None:
    assert refusal(written(), tmp_path) == no_room(tmp_path)


@pytest.mark.slow
def test_requiring_the_store_in_a_file_is_an_error(
    written: Callable[..., Preparation],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOPWORK_CACHE", str(write("file", "not a folder")))
    reason = refusal(written(), tmp_path)
    assert reason.startswith(f"{tmp_path}/file/activations/")
    assert reason.endswith("/manifest.json cannot be read: Not a directory")


@pytest.mark.slow
def test_requiring_a_store_that_cannot_be_written_is_an_error(
    written: Callable[..., Preparation], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot be written: Not a directory$"):
        read(written())


# the self-check
