"""What waits for MLflow comes in order, once, and as it was."""

import math
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from run_helpers import open_small_store
from topwork.errors import StorageError
from topwork.lab.tracking.store import TrackingStore
from topwork.lab.tracking.unsent import Unsent
from topwork.lab.tracking.write import ServedModel, Source, Write, is_absence

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
    assert [repr(one) for one in seen[:-1]] == [repr(one) for one in WRITES[:-1]]
    assert seen[-1].model is not None
    assert seen[-1].model.folder == Path("m").absolute()
    assert not unsent.folder.exists()


def test_the_folder_of_a_model_is_found_where_the_run_was_moved_to(tmp_path: Path) -> None:
    (tmp_path / "first" / "runs" / "m").mkdir(parents=True)
    run = tmp_path / "first" / "runs" / "m"
    served = ServedModel(folder=tmp_path / "first" / "m", example=[], requirements=[])
    Unsent(run, run).add(Write(what="model", model=served))
    assert str(tmp_path) not in Unsent(run, run).paths()[0].read_text()
    (tmp_path / "first").rename(tmp_path / "second")
    run = tmp_path / "second" / "runs" / "m"
    (found,) = Unsent(run, run)
    assert found.model is not None
    assert found.model.folder == tmp_path / "second" / "m"


def test_only_a_first_write_creates_the_run(unsent: Unsent) -> None:
    assert not unsent.creates_run
    unsent.add(Write(what="create", create={}))
    assert unsent.creates_run
    unsent.add(WRITES[0])
    next(iter(unsent))
    unsent.paths()[0].unlink()
    assert not unsent.creates_run


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


class Editor:
    """Takes writes, refuses some, and goes away at others."""

    def __init__(self, store: TrackingStore) -> None:
        self.store = store
        self.taken: list[str] = []

    def apply(self, write: Write) -> None:
        if write.what == "refused":
            raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
        if write.what == "away":
            raise ConnectionError("gone")
        self.taken.append(write.what)


def test_what_the_store_refuses_does_not_hold_up_the_others(
    unsent: Unsent, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    for what in ("first", "refused", "second", "away", "third"):
        unsent.add(Write(what=what))
    editor = Editor(open_small_store(store_uri))
    with pytest.raises(ConnectionError, match="gone"):
        unsent.send(editor)  # type: ignore[arg-type]  # it stands for an editor
    assert editor.taken == ["first", "second"]
    assert "refused could not be logged to MLflow: MlflowException: no" in caplog.text
    assert len(unsent.paths()) == 2


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (MlflowException("no", error_code=INVALID_PARAMETER_VALUE), False),
        (MlflowException("API request failed"), True),
        (ConnectionError("gone"), True),
        (OSError("disk"), True),
        (ValueError("a bug"), False),
    ],
)
def test_absence_is_told_from_refusal(error: Exception, away: bool) -> None:
    assert is_absence(error) == away
