"""Who may read and write a folder of the activation store, and what happens when it cannot be written."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from store_helpers import build, everything, files_in, held, merge
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store import activation_store as store_module
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import list_entries, prune
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST
from topwork.errors import StorageError

OpenStore = Callable[[], ActivationStore]
DigestsOf = Callable[..., Digests]
RandomRagged = Callable[..., Ragged]
BitsOf = Callable[[tuple[Tensor, Tensor]], list[bytes]]
Fill = Callable[..., None]


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Act as a user who owns nothing, where this process may become one."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def shared_root() -> Iterator[Path]:
    """A cache folder that everybody can reach and nobody but its owner can change."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        yield root
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.reliability("B27")
def test_a_shard_that_cannot_be_written_leaves_the_store_as_it_was(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(random_ragged([3, 2]))
    before = files_in(open_store().folder)
    original = store_module.write_file

    def refuse_manifests(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == MANIFEST:
            raise StorageError(f"{path} could not be written: No space left on device")
        original(path, content, mode=mode)

    monkeypatch.setattr(store_module, "write_file", refuse_manifests)
    with pytest.raises(StorageError, match="No space left"):
        fill(random_ragged([1], seed=1), first=2)
    monkeypatch.undo()
    assert held(open_store().find(digests_of(range(3)))) == [0, 1]
    merge(open_store())
    assert files_in(open_store().folder) == before


def test_the_lock_is_free_again_when_a_build_fails(
    open_store: OpenStore, random_ragged: RandomRagged, digests_of: DigestsOf
) -> None:
    waited: list[str] = []
    with pytest.raises(ZeroDivisionError), open_store().building(lambda: None):
        _ = 1 / 0
    with open_store().building(lambda: waited.append("waited")):
        pass
    assert not waited


def seal(root: Path) -> None:
    """Let everybody read and nobody write."""
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.reliability("B28")
def test_a_read_only_cache_of_somebody_else_is_read(
    shared_root: Path,
    key: Key,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    activations, digests = random_ragged([3, 2]), digests_of(range(2))
    build(ActivationStore(shared_root, key), digests, activations)
    seal(shared_root)
    with as_somebody_else():
        stored = ActivationStore(shared_root, key).find(digests)
        found = stored.batch(torch.arange(2))
    assert bits_of(found) == bits_of(everything(activations))
    assert not caplog.records


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become two other users")
def test_two_users_of_one_group_add_to_one_folder(
    shared_root: Path, key: Key, digests_of: DigestsOf, random_ragged: RandomRagged
) -> None:
    os.chown(shared_root, -1, 4321)
    shared_root.chmod(0o2770)
    for number, user in enumerate((65534, 65533)):
        os.setegid(4321)
        os.seteuid(user)
        try:
            build(ActivationStore(shared_root, key), digests_of([number]), random_ragged([3], seed=number))
            merge(ActivationStore(shared_root, key))
            assert held(ActivationStore(shared_root, key).find(digests_of(range(2)))) == list(range(number + 1))
        finally:
            os.seteuid(0)
            os.setegid(0)
    assert {path.stat().st_gid for path in shared_root.rglob("*")} == {4321}
    assert {stat.S_IMODE(path.stat().st_mode) for path in shared_root.rglob("*") if path.is_dir()} == {0o2770}


@pytest.mark.reliability("B28")
def test_a_read_only_cache_cannot_be_added_to(
    shared_root: Path, key: Key, digests_of: DigestsOf, random_ragged: RandomRagged
) -> None:
    build(ActivationStore(shared_root, key), digests_of(range(2)), random_ragged([3, 2]))
    seal(shared_root)
    with (
        as_somebody_else(),
        pytest.raises(StorageError, match=r"cannot be written: Permission denied$"),
        ActivationStore(shared_root, key).building(lambda: None),
    ):
        pass


def test_what_cannot_be_removed_is_left_and_what_cannot_be_written_is_a_storage_error(
    shared_root: Path, key: Key, digests_of: DigestsOf, random_ragged: RandomRagged
) -> None:
    store = ActivationStore(shared_root, key)
    build(store, digests_of(range(2)), random_ragged([3, 2]))
    (store.folder / ".left.over").write_bytes(b"half")
    shutil.rmtree(shared_root / "locks")
    (shared_root / "locks").mkdir()
    (shared_root / "locks").chmod(0o777)
    store.folder.chmod(0o555)
    before = files_in(store.folder)
    with as_somebody_else(), pytest.raises(StorageError, match=r"could not be written: Permission denied$"):
        build(ActivationStore(shared_root, key), digests_of([2]), random_ragged([1], seed=1))
    assert files_in(store.folder) == before


def test_a_folder_that_must_not_be_removed_is_told(shared_root: Path, key: Key, random_ragged: RandomRagged) -> None:
    store = ActivationStore(shared_root, key)
    build(store, Digests.of([b"0" * 32]), random_ragged([3]))
    (shared_root / "locks" / f"{key.digest}.lock").chmod(0o666)
    with as_somebody_else(), pytest.raises(StorageError) as caught:
        prune(shared_root, keys=[key.digest], unused=None)
    assert str(caught.value) == f"{store.folder} cannot be removed: Permission denied"


def test_a_cache_that_must_not_be_read_is_told(shared_root: Path, key: Key, random_ragged: RandomRagged) -> None:
    build(ActivationStore(shared_root, key), Digests.of([b"0" * 32]), random_ragged([3]))
    (shared_root / "activations").chmod(0o600)
    with as_somebody_else(), pytest.raises(StorageError) as caught:
        list_entries(shared_root)
    assert str(caught.value) == f"{shared_root} cannot be read: Permission denied"
