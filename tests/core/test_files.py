"""Files and folders appear whole or not at all."""

import errno
import hashlib
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from topwork.errors import StorageError
from topwork.files import new_folder, sha256_of, write_file

LONG = "x" * 300
NOT_A_FOLDER = r"(model|result\.json) could not be written: (File exists|Not a directory)$"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system refuse files larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_folder_appears_with_all_that_was_put_into_it(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as folder:
        (folder / "weights").mkdir()
        (folder / "weights" / "a.bin").write_bytes(b"123")
        (folder / "readme").write_text("hello")
    assert everything_in(tmp_path) == ["model", "model/readme", "model/weights", "model/weights/a.bin"]
    assert (tmp_path / "model" / "weights" / "a.bin").read_bytes() == b"123"


def test_a_new_folder_has_no_name_before_it_is_full(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as folder:
        assert not (tmp_path / "model").exists()
        assert folder.parent == tmp_path
    assert not folder.exists()


def test_a_new_folder_is_readable_by_everybody(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model"):
        pass
    assert mode_of(tmp_path / "model") == 0o755


def test_a_new_folder_makes_its_parents(tmp_path: Path) -> None:
    with new_folder(tmp_path / "models" / "today" / "model"):
        pass
    assert (tmp_path / "models" / "today" / "model").is_dir()


def test_a_new_folder_that_exists_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    taken = tmp_path / "model"
    taken.mkdir()
    (taken / "old").write_text("kept")
    with pytest.raises(StorageError) as caught, new_folder(taken):
        pytest.fail("the block must not run")
    assert str(caught.value) == f"{taken} exists already; nothing is overwritten, so give another name or remove it"
    assert everything_in(tmp_path) == ["model", "model/old"]


def test_a_new_folder_does_not_replace_one_that_was_filled_meanwhile(tmp_path: Path) -> None:
    taken = tmp_path / "model"
    with pytest.raises(StorageError, match="Directory not empty"), new_folder(taken) as folder:
        (folder / "mine").write_text("lost")
        taken.mkdir()
        (taken / "theirs").write_text("kept")
    assert everything_in(tmp_path) == ["model", "model/theirs"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=lambda f: type(f).__name__
)
def test_a_new_folder_leaves_nothing_behind_when_its_block_fails(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("done")
        raise error
    assert everything_in(tmp_path) == []


def test_a_full_disk_is_a_storage_error_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("done")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "half")
    assert str(caught.value) == f"{tmp_path / 'model'} could not be written: No space left on device"
    assert everything_in(tmp_path) == []


def test_an_error_of_the_disk_without_a_word_is_quoted_by_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "model"):
        raise OSError
    assert str(caught.value) == f"{tmp_path / 'model'} could not be written: OSError"

    def fail(descriptor: int) -> None:
        raise OSError

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError) as caught:
        write_file(tmp_path / "result.json", b"new")
    assert str(caught.value) == f"{tmp_path / 'result.json'} could not be written: OSError"


def test_a_folder_that_cannot_be_synced_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "model") as folder:
        (folder / "half").write_text("done")
    assert str(caught.value) == f"{tmp_path / 'model'} could not be written: Input/output error"
    assert everything_in(tmp_path) == []


def test_a_new_folder_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "model"
    with pytest.raises(StorageError, match=NOT_A_FOLDER), new_folder(blocked):
        pytest.fail("the block must not run")


def test_a_folder_name_that_is_too_long_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"could not be written: File name too long$"), new_folder(tmp_path / LONG):
        pytest.fail("the block must not run")


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert everything_in(tmp_path) == ["deep", "deep/result.json"]
    assert mode_of(path) == 0o644


def test_a_file_that_outgrows_the_disk_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_file(path, b"old")
    with largest_file(1000), pytest.raises(StorageError) as caught:
        write_file(path, b"x" * 100_000)
    assert str(caught.value) == f"{path} could not be written: File too large"
    assert path.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["result.json"]


def test_a_full_disk_leaves_the_old_file_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        write_file(path, b"new")
    assert str(caught.value) == f"{path} could not be written: No space left on device"
    assert path.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["result.json"]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(StorageError, match=r"result\.json could not be written: Is a directory$"):
        write_file(tmp_path / "result.json", b"new")
    assert everything_in(tmp_path) == ["result.json"]


def test_a_file_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=NOT_A_FOLDER):
        write_file(tmp_path / "file" / "result.json", b"new")


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)], ids=["empty", "small", "large"])
def test_the_digest_is_sha256(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_is_written_may_be_read_by_others(tmp_path: Path) -> None:
    with new_folder(tmp_path / "new") as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "secretive").touch(mode=0o600)
    modes = [oct((tmp_path / "new" / name).stat().st_mode & 0o777) for name in ("", "inside", "inside/secretive")]
    assert modes == ["0o755", "0o755", "0o644"]
