"""What waits for MLflow comes in order, once, and as it was."""

import math
from pathlib import Path

import pytest

from topwork.errors import StorageError
from topwork.lab.tracking.unsent import Unsent
from topwork.lab.tracking.write import ServedModel, Source, Write

WRITES = [
    Write(what="metrics", metrics=[("a", math.nan, 12, 1), ("b", math.inf, 12, 1), ("c", 1 / 3, 12, 1)]),
    Write(what="a file", artifact="figures/x.png", content=bytes(range(256))),
    Write(what="all", tags={"x": "ü"}, parameters={"p": "1"}, status="FINISHED", create={}),
    Write(what="rows", sources=[Source(name="s", digest="d", kind="local", uri="{}", context="train")]),
    Write(what="model", model=ServedModel(folder=Path("m"), example=["a"], requirements=["topwork"])),
]


@pytest.fixture
def unsent(tmp_path: Path) -> Unsent:
    return Unsent(tmp_path / "training", tmp_path)


def test_writes_come_in_order_and_each_is_removed_when_the_next_is_asked_for(unsent: Unsent) -> None:
    for write in WRITES:
        unsent.add(write)
    seen = []
    for number, write in enumerate(unsent):
        seen.append(write)
        assert len(unsent.paths()) == len(WRITES) - number
    assert [repr(one) for one in seen] == [repr(one) for one in WRITES]
    assert not unsent.folder.exists()


def test_what_was_not_taken_stays(unsent: Unsent) -> None:
    for write in WRITES[:3]:
        unsent.add(write)
    taken = iter(unsent)
    next(taken)
    next(taken)
    taken.close()  # type: ignore[attr-defined]
    assert [one.what for one in unsent] == ["a file", "all"]
    unsent.add(WRITES[0])
    assert len(unsent.paths()) == 1


def test_nothing_waits_where_nothing_was_put(unsent: Unsent) -> None:
    assert list(unsent) == []
    assert unsent.paths() == []


def test_a_damaged_write_is_named(unsent: Unsent) -> None:
    unsent.add(WRITES[0])
    unsent.paths()[0].write_text("{")
    with pytest.raises(StorageError, match=r"00000001\.json is damaged: .*; remove it to send the others"):
        list(unsent)
