"""A shard's file is written as its texts come, and is a safetensors file like any other."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.shard_file import ShardFile, open_shard
from topwork.errors import StorageError

LENGTHS = [3, 1, 2, 5, 1]
DIGESTS = Digests.of([hashlib.sha256(str(number).encode()).digest() for number in range(len(LENGTHS))])


def written(folder: Path, values: torch.Tensor, *, parts: int) -> str:
    """Write the same texts in so many parts."""
    whole, shard = Ragged(values, offsets_of(torch.tensor(LENGTHS))), ShardFile(folder, mode=0o640)
    for rows in torch.arange(len(LENGTHS)).tensor_split(parts):
        part = whole.take(rows)
        shard.append(DIGESTS.take(rows.numpy()), part.values, part.lengths)
    assert shard.nbytes == values.nbytes
    sha256, size = shard.finish()
    assert (folder / f"{sha256}.safetensors").stat().st_size == size
    return sha256


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_what_is_written_is_read_wherever_its_parts_begin(tmp_path: Path, dtype: torch.dtype, width: int) -> None:
    values = torch.randn(sum(LENGTHS), width).to(dtype)
    names = {written(tmp_path, values, parts=parts) for parts in (1, 2, 5)}
    assert len(names) == len(list(tmp_path.iterdir())) == 1
    (path,) = tmp_path.iterdir()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    digests, activations = open_shard(path)
    assert list(digests) == list(DIGESTS)
    assert torch.equal(activations.values, values)
    assert activations.lengths.tolist() == LENGTHS
    assert torch.equal(load_file(path)["values"], values)


def test_numbers_lie_where_memory_has_them(tmp_path: Path) -> None:
    sha256 = written(tmp_path, torch.ones(sum(LENGTHS), 1, dtype=torch.float16), parts=2)
    _, activations = open_shard(tmp_path / f"{sha256}.safetensors")
    assert activations.offsets.data_ptr() % 8 == 0


def test_nothing_is_left_of_a_shard_that_is_not_finished(tmp_path: Path) -> None:
    shard = ShardFile(tmp_path, mode=0o644)
    shard.append(DIGESTS, torch.ones(sum(LENGTHS), 2), torch.tensor(LENGTHS))
    assert len(list(tmp_path.iterdir())) == 1
    shard.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = ShardFile(tmp_path, mode=0o644)
    shard.append(DIGESTS, torch.ones(sum(LENGTHS), 2), torch.tensor(LENGTHS))

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="could not be written: No space left on device"):
        shard.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_no_file_can_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written: No such file or directory"):
        ShardFile(tmp_path / "nowhere", mode=0o644)
