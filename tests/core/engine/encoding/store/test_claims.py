"""Of several processes exactly one has a part, until it lets go of it, dies, or is silent for long."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest

from topwork.engine.encoding.store import claims as module
from topwork.engine.encoding.store.claims import OWNER_FILE, Claims, flock_works
from topwork.errors import StorageError
from topwork.process_name import this_process
from waiting import wait_for

#: The name of a process of another machine.
ELSEWHERE = "elsewhere:1:2:another-boot:3"


@pytest.fixture(params=["hard links", "renamed folders"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How claims are made."""
    if request.param == "renamed folders":
        monkeypatch.setattr(module, "_can_link", lambda folder: False)
    return str(request.param)


@pytest.fixture
def claims(tmp_path: Path, method: str) -> Iterator[Claims]:
    with Claims(tmp_path) as claims:
        assert claims.method == method
        yield claims


def set_owner(folder: Path, name: str, owner: str) -> Path:
    """Change who made a claim."""
    path = folder / name / OWNER_FILE if (folder / name).is_dir() else folder / name
    path.write_text(json.dumps({"owner": owner}), encoding="utf-8")
    return path


def test_a_part_is_had_by_one_until_it_lets_go(claims: Claims, tmp_path: Path) -> None:
    with Claims(tmp_path) as others:
        assert claims.take("part")
        assert not others.take("part")
        assert others.take("another")
        claims.release("part")
        assert others.take("part")
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path, method: str) -> None:
    every, got, together = [Claims(tmp_path) for _ in range(8)], list[int](), Barrier(8)

    def ask(number: int) -> None:
        for part in range(20):
            together.wait()
            if every[number].take(f"part{part}"):
                got.append(part)

    threads = [Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(20))
    for one in every:
        one.__exit__(None, None, None)


CLAIM = """
import sys
from pathlib import Path
from topwork.engine.encoding.store.claims import Claims
print(Claims(Path(sys.argv[1])).take("part"), flush=True)
input()
"""


def test_a_part_of_a_killed_process_is_taken_at_once(claims: Claims, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not claims.take("part")
        assert claims.others()
        process.kill()
    assert not claims.others()
    assert claims.take("part")
    assert {path.name for path in tmp_path.iterdir()} == {"part.0", "part.1"}


def test_a_part_of_another_machine_is_taken_once_it_was_not_touched_for_long(
    claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    claims.take("part")
    path = set_owner(tmp_path, "part.0", ELSEWHERE)
    with Claims(tmp_path) as others:
        assert not others.take("part")
        clock = module.GRACE_SECONDS
        assert not others.take("part")
        os.utime(path, (time.time() + 5,) * 2)  # whatever its clock says: it lives
        clock *= 2
        assert not others.take("part")
        assert others.others()
        clock += module.GRACE_SECONDS + 1
        assert not others.others()
        assert others.take("part")


def test_claims_are_touched_as_long_as_their_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    with Claims(tmp_path) as claims:
        claims.take("part")
        path = set_owner(tmp_path, "part.0", this_process())
        os.utime(path, (5, 5))
        assert wait_for(lambda: path.stat().st_mtime > 5)


def test_an_unreadable_claim_ends_like_that_of_another_machine(
    claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    (tmp_path / "part.0").write_text("{", encoding="utf-8")
    assert not claims.take("part")
    clock = module.GRACE_SECONDS + 1
    assert claims.take("part")


def test_what_dead_processes_left_is_removed_and_nothing_of_the_living(claims: Claims, tmp_path: Path) -> None:
    with Claims(tmp_path) as others:
        others.take("dead")
        others.take("living")
        host, number, _, *rest = this_process().split(":")
        set_owner(tmp_path, "dead.0", ":".join([host, number, "1", *rest]))
        for name, age in ((".claim.left", 2 * module.GRACE_SECONDS), (".claim.new", 0)):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - age,) * 2)
        claims.take("own")
        claims.tidy()
        assert {path.name for path in tmp_path.iterdir()} == {"own.0", "living.0", ".claim.new"}


def test_one_of_another_machine_that_was_not_touched_for_very_long_ends_at_the_first_look(
    claims: Claims, tmp_path: Path
) -> None:
    with Claims(tmp_path) as others:
        others.take("part")
        path = set_owner(tmp_path, "part.0", ELSEWHERE)
        os.utime(path, (time.time() - 2 * module.LONG_GRACE_SECONDS,) * 2)
        assert not claims.others()
        assert claims.take("part")


def test_a_folder_that_lost_its_owners_file_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    (tmp_path / "part.0").mkdir()
    with Claims(tmp_path) as claims:
        assert not claims.take("part")
        clock = module.GRACE_SECONDS + 1
        assert claims.take("part")


def test_who_waits_for_a_part_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    said = list[str]()
    with Claims(tmp_path) as claims, Claims(tmp_path) as others:
        others.take("part")

        def wait() -> None:
            with claims.holding("part", lambda: said.append("waiting")):
                said.append("has it")

        thread = Thread(target=wait)
        thread.start()
        wait_for(lambda: said)
        others.release("part")
        thread.join()
    assert said == ["waiting", "has it"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="claims cannot be written: Not a directory"):
        Claims(tmp_path / "file" / "claims")


def test_a_file_system_without_hard_links_has_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with Claims(tmp_path) as claims:
        assert claims.method == "renamed folders"
        assert claims.take("part")
        assert (tmp_path / "part.0" / OWNER_FILE).exists()


def test_whether_flock_works_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flock_works(tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not flock_works(tmp_path)
    assert list(tmp_path.iterdir()) == []
