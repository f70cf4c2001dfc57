"""Files and folders appear whole or not at all."""

import errno
import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from disks import largest_file
from topwork.errors import StorageError
from topwork.files import (
    FAULT_POINTS,
    LOCK,
    UNFINISHED,
    _digest,
    check_room,
    create_database,
    file_mode,
    holding,
    is_held,
    make_folder,
    new_folder,
    reserved,
    sha256_of,
    write_file,
)

LONG = "x" * 300
NOT_A_FOLDER = r"(model|result\.json) could not be written: (File exists|Not a directory)$"


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


HOLD = """\
import sys
from pathlib import Path
from topwork.files import new_folder
with new_folder(Path(sys.argv[1])) as temporary:
    print(temporary, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def being_made(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that is making a folder, and where."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_that_another_process_is_making_is_refused_with_its_name(tmp_path: Path) -> None:
    with being_made(tmp_path / "model") as (process, _):
        with pytest.raises(StorageError) as caught, reserved(tmp_path / "model"):
            pytest.fail("the block must not run")
        assert str(caught.value).startswith(f"{tmp_path / 'model'} is being made by process {process.pid} on ")
        assert str(caught.value).endswith("; give another name, or wait for it")
        with reserved(tmp_path / "another"):
            pass


def test_a_reserved_name_is_free_again_and_nothing_is_left(tmp_path: Path) -> None:
    for _ in range(2):
        with reserved(tmp_path / "model"), new_folder(tmp_path / "model"):
            pass
        (tmp_path / "model").rmdir()
    assert everything_in(tmp_path) == []


def test_what_a_killed_process_left_unfinished_is_removed_by_the_next(tmp_path: Path) -> None:
    with being_made(tmp_path / "model") as (killed, left), being_made(tmp_path / "other") as (_, kept):
        killed.kill()
        killed.wait()
        assert left.exists()
        with reserved(tmp_path / "third"):
            assert not left.exists()
            assert kept.exists()
        with new_folder(tmp_path / "model"):
            pass
    assert (tmp_path / "model").is_dir()


def test_a_folder_for_which_there_is_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 40_000_000) if path == tmp_path else None)
    check_room(tmp_path / "new" / "model", 40_000_000)
    with pytest.raises(StorageError) as caught:
        check_room(tmp_path / "new" / "model", 90_000_000)
    assert str(caught.value) == (
        f"{tmp_path / 'new' / 'model'} needs 90.0 MB, and 40.0 MB are free there; "
        "make room, or give a folder on another disk"
    )


def create(file: Path, name: str) -> None:
    def build(temporary: Path) -> None:
        assert not file.exists() or not file.stat().st_size
        connection = sqlite3.connect(temporary)
        connection.execute(f"CREATE TABLE {name} (x)")
        connection.close()

    create_database(file, build)


def tables(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    found = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    connection.close()
    return found


def test_a_database_appears_whole_and_one_that_is_there_stays(tmp_path: Path) -> None:
    create(tmp_path / "deep" / "a.db", "first")
    create(tmp_path / "deep" / "a.db", "second")
    assert tables(tmp_path / "deep" / "a.db") == ["first"]
    assert everything_in(tmp_path) == ["deep", "deep/a.db"]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    create(tmp_path / "a.db", "first")
    assert tables(tmp_path / "a.db") == ["first"]


def test_of_several_who_create_a_database_at_once_one_does(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: create(tmp_path / "a.db", f"by_{number}"), range(8)))
    assert len(tables(tmp_path / "a.db")) == 1
    assert everything_in(tmp_path) == ["a.db"]


def test_a_database_that_was_not_finished_has_no_name_and_is_removed_by_the_next(tmp_path: Path) -> None:
    seen: list[Path] = []

    def fail(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("half")
        temporary.with_name(f"{temporary.name}-journal").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_database(tmp_path / "a.db", fail)
    assert everything_in(tmp_path) == []
    seen[0].write_text("left by a killed process")
    create(tmp_path / "a.db", "first")
    assert everything_in(tmp_path) == ["a.db"]
    assert tables(tmp_path / "a.db") == ["first"]


def test_where_no_file_can_be_made_a_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        create(tmp_path / "file" / "a.db", "first")


def test_folders_of_other_names_are_never_taken_for_unfinished_ones(tmp_path: Path) -> None:
    kept = [".work.unfinished", ".results.v2.unfinished", ".topwork-unfinished", ".0123456789ab.topwork-unfinished"]
    for name in kept:
        (tmp_path / name).mkdir()
    with reserved(tmp_path / "model"):
        pass
    assert everything_in(tmp_path) == sorted(kept)


@pytest.mark.parametrize("length", [245, 255])
def test_a_long_name_that_the_file_system_takes_is_made(tmp_path: Path, length: int) -> None:
    with new_folder(tmp_path / ("x" * length)):
        pass
    assert everything_in(tmp_path) == ["x" * length]


def test_what_fails_while_a_name_is_kept_is_not_taken_for_a_fault_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), reserved(tmp_path / "model"):
        raise FileNotFoundError("elsewhere")
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(("root", "file"), [(0o2775, 0o664), (0o750, 0o644)])
def test_what_is_inside_a_shared_folder_is_shared_like_it(tmp_path: Path, root: int, file: int) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(root)
    for _ in range(2):
        make_folder(tmp_path / "root" / "a" / "b", tmp_path / "root")
    assert mode_of(tmp_path / "root" / "a") == mode_of(tmp_path / "root" / "a" / "b") == root
    write_file(tmp_path / "root" / "a" / "c", b"", mode=file_mode(tmp_path / "root"))
    assert mode_of(tmp_path / "root" / "a" / "c") == file


def test_a_shared_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "root" / "a", tmp_path / "new" / "root")
    assert mode_of(tmp_path / "new" / "root" / "a") == mode_of(tmp_path / "new" / "root")


def test_what_a_killed_process_left_of_the_same_folder_is_removed_too(tmp_path: Path) -> None:
    with reserved(tmp_path / "other"):
        (tmp_path / f".{_digest(tmp_path / 'model')}.abcdefgh{UNFINISHED}").mkdir()
        with reserved(tmp_path / "model"):
            assert [path.name for path in tmp_path.iterdir() if path.name.endswith(UNFINISHED)] == []


KEEP = """\
import sys
from pathlib import Path
from topwork.errors import StorageError
from topwork.files import holding, is_held
print(is_held(Path(sys.argv[1])))
try:
    with holding(Path(sys.argv[1]), "trained"):
        print("free")
except StorageError as error:
    print(error)
"""


@pytest.mark.reliability("A18", "B23")
def test_a_folder_that_another_process_keeps_is_refused_with_its_number(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEP, str(tmp_path / "run")]
    with holding(tmp_path / "run", "trained"):
        assert is_held(tmp_path / "run")
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "True"
    assert said[1].startswith(f"{tmp_path / 'run'} is being trained by process {os.getpid()} on ")
    assert said[1].endswith("; wait for it, or end it")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["False", "free"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_kept_may_exist_and_its_parent_is_made_and_removed(tmp_path: Path) -> None:
    with holding(tmp_path / "runs" / "x", "trained"):
        assert (tmp_path / "runs").is_dir()
    assert not (tmp_path / "runs").exists()
    with holding(tmp_path / "runs" / "x", "trained"):
        (tmp_path / "runs" / "x").mkdir()
    assert (tmp_path / "runs" / "x").exists()
    with holding(tmp_path / "runs" / "x", "trained"), pytest.raises(OSError, match="theirs"):
        raise OSError("theirs")


def test_a_lock_file_that_a_killed_process_left_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / f".{_digest(tmp_path / 'run')}{LOCK}").write_text("process 1 on nowhere")
    assert not is_held(tmp_path / "run")
    with holding(tmp_path / "run", "trained"):
        pass


def test_a_folder_that_exists_may_be_kept_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with reserved(tmp_path / "model", existing=True):
        assert (tmp_path / "model").is_dir()
    with pytest.raises(StorageError, match="exists already"), reserved(tmp_path / "model"):
        pytest.fail("it was kept")


LISTEN = """\
import sys
from pathlib import Path
from topwork.files import new_folder, write_file
sys.addaudithook(lambda event, details: print(*details) if event == "topwork.reached" else None)
write_file(Path("x"), b"")
with new_folder(Path("y")):
    pass
"""


def test_moments_of_writes_are_named_for_those_who_listen(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", LISTEN], capture_output=True, text=True, check=True, cwd=tmp_path)
    heard = said.stdout.splitlines()
    assert heard == [
        *(f"file {moment} x" for moment in ("made", "written", "renamed")),
        *(f"folder {moment} y" for moment in ("made", "filled", "synced", "renamed")),
    ]
    assert {line[:-2] for line in heard} | {"removed from view"} == set(FAULT_POINTS)
