"""Arrays in temporary files."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from topwork import mapped
from topwork.errors import StorageError


@pytest.mark.parametrize("count", [0, 3, 300_000], ids=["none", "few", "more than are kept in memory"])
def test_parts_make_one_array_that_can_be_written_to(count):
    writer = mapped.ArrayWriter(np.int64, (2,))
    rows = np.arange(2 * count).reshape(count, 2)
    for part in np.array_split(rows, 7):
        writer.append(part)
    array = writer.finish()
    assert np.array_equal(array, rows)
    array[:] = 5
    assert (array == 5).all()


def test_a_large_array_of_zeros_lies_in_a_file_that_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = mapped.zeros((1000, 1000), np.float32)
    assert array.shape == (1000, 1000)
    assert not array.any()
    array[3, 4] = 1.0
    assert array.sum() == 1.0
    assert str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match=r"8\.0 MB for temporary files could not be written to .*: .*; set TMPDIR"):
        mapped.zeros(1_000_000, np.int64)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_places_of_a_mask_are_those_at_which_it_is_true(at_once, monkeypatch):
    monkeypatch.setattr(mapped, "AT_ONCE", at_once)
    mask = np.arange(100) % 3 == 1
    assert mapped.places_of(mask).tolist() == [number for number in range(100) if number % 3 == 1]
    assert mapped.places_of(mask[:1]).tolist() == []
