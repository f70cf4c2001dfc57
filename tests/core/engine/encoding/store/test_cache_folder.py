"""The cache folder: where it is, what it holds, and how it is cleared."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from store_helpers import add
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store.activation_store import CLAIMS, ActivationStore
from topwork.engine.encoding.store.cache_folder import CacheEntry, cache_folder, list_entries, prune
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST
from topwork.errors import ConfigurationError

DAY = 86400


@pytest.fixture
def two(
    root: Path, digests_of: Callable[..., Digests], random_ragged: Callable[..., Ragged]
) -> tuple[ActivationStore, ActivationStore]:
    """A store with two texts that was of use today, and one with three texts that was not for ten days."""
    stores = []
    for number, lengths in enumerate([[3, 2], [1, 4, 2]]):
        store = ActivationStore(root, Key({"stages": ["embeddings"], "number": number}))
        with store.building(lambda: None):
            add(store, digests_of(range(len(lengths))), random_ragged(lengths))
        stores.append(store)
    ten_days_ago = time.time() - 10 * DAY
    os.utime(stores[1].folder, (ten_days_ago, ten_days_ago))
    return stores[0], stores[1]


def keys_of(found: list[CacheEntry]) -> list[str]:
    return [entry.key for entry in found]


def test_topwork_cache_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_CACHE", str(tmp_path / "my cache"))
    assert cache_folder() == tmp_path / "my cache"


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOPWORK_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "home" / "kept"


def test_a_relative_folder_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_CACHE", "kept/here")
    assert cache_folder() == tmp_path / "kept" / "here"


@pytest.mark.parametrize("given", [None, ""])
def test_without_topwork_cache_it_is_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.delenv("TOPWORK_CACHE")
    if given is not None:
        monkeypatch.setenv("TOPWORK_CACHE", given)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    folder = cache_folder()
    assert folder.name == "topwork"
    assert tmp_path / "home" in folder.parents
    assert not folder.exists()


def test_a_cache_that_is_not_there_holds_nothing(root: Path) -> None:
    assert list_entries(root) == []
    assert not root.exists()


def test_holdings_come_last_used_first_with_texts_and_sizes(
    root: Path, two: tuple[ActivationStore, ActivationStore]
) -> None:
    recent, old = list_entries(root)
    assert [recent.folder, old.folder] == [store.folder for store in two]
    assert (recent.texts, old.texts) == (2, 3)
    assert recent.unused < 0.1
    assert old.unused == pytest.approx(10, abs=0.1)
    assert recent.bytes == sum(path.stat().st_size for path in recent.folder.iterdir())
    assert not recent.errors()
    assert not old.errors()


def test_a_folder_without_a_sound_manifest_holds_no_texts(
    root: Path, two: tuple[ActivationStore, ActivationStore]
) -> None:
    (two[0].folder / MANIFEST).write_text("{")
    (two[1].folder / MANIFEST).unlink()
    found = {entry.key: entry for entry in list_entries(root)}
    damaged, unfinished = (found[store.key.digest] for store in two)
    assert (damaged.manifest, damaged.texts, damaged.damaged) == (None, 0, True)
    assert damaged.errors() == [f"{damaged.folder / MANIFEST}: it is damaged"]
    assert (unfinished.manifest, unfinished.texts, unfinished.damaged) == (None, 0, False)
    assert not unfinished.errors()  # a build may be about to write it


def test_each_damaged_shard_is_told(root: Path, two: tuple[ActivationStore, ActivationStore]) -> None:
    (flipped,) = two[0].folder.glob("*.safetensors")
    (deleted,) = two[1].folder.glob("*.safetensors")
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    deleted.unlink()
    errors = {error for entry in list_entries(root) for error in entry.errors()}
    assert {error.partition(": ")[0] for error in errors} == {str(flipped), str(deleted)}
    assert f"{deleted}: cannot be read: No such file or directory" in errors


def test_a_file_that_goes_while_its_folder_is_measured_is_no_fault(
    root: Path, two: tuple[ActivationStore, ActivationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = two[0].folder / f".{MANIFEST}.x7k2"
    temporary.write_bytes(b"half")
    original = Path.stat

    def take_away_first(path: Path, **options: bool) -> os.stat_result:
        if path == temporary:
            path.unlink(missing_ok=True)
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", take_away_first)
    assert [entry.texts for entry in list_entries(root)] == [2, 3]


def test_what_is_named_by_the_beginning_of_its_key_is_removed(
    root: Path, two: tuple[ActivationStore, ActivationStore]
) -> None:
    removed, busy = prune(root, keys=[two[0].key.digest[:8]], unused=None)
    assert keys_of(removed) == [two[0].key.digest]
    assert busy == []
    assert keys_of(list_entries(root)) == [two[1].key.digest]


def test_a_beginning_that_fits_several_keys_removes_them_all(
    root: Path, two: tuple[ActivationStore, ActivationStore]
) -> None:
    removed, _ = prune(root, keys=[store.key.digest[:1] for store in two], unused=None)
    assert set(keys_of(removed)) == {store.key.digest for store in two}
    assert list_entries(root) == []


@pytest.mark.parametrize(("unused", "kept"), [(0, []), (9.5, [0]), (10.5, [0, 1])])
def test_what_was_of_no_use_for_so_many_days_is_removed(
    root: Path, two: tuple[ActivationStore, ActivationStore], unused: float, kept: list[int]
) -> None:
    prune(root, keys=[], unused=unused)
    assert keys_of(list_entries(root)) == [two[number].key.digest for number in kept]


def test_keys_and_days_are_either_or(root: Path, two: tuple[ActivationStore, ActivationStore]) -> None:
    removed, _ = prune(root, keys=[two[0].key.digest], unused=9)
    assert len(removed) == 2


@pytest.mark.parametrize("keys", [["zzz"], [""], ["..", "/"]])
def test_an_unknown_key_is_refused_and_nothing_is_removed(
    root: Path, two: tuple[ActivationStore, ActivationStore], keys: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prune(root, keys=[two[0].key.digest, *keys], unused=0)
    unknown = ", ".join(map(repr, keys))
    assert str(caught.value) == f"nothing is stored under {unknown}; `topwork cache list` shows the keys"
    assert len(list_entries(root)) == 2


def test_a_folder_that_is_being_added_to_is_kept(root: Path, two: tuple[ActivationStore, ActivationStore]) -> None:
    with two[0].building(lambda: None):
        removed, busy = prune(root, keys=[], unused=0)
    assert keys_of(removed) == [two[1].key.digest]
    assert keys_of(busy) == [two[0].key.digest]
    assert list_entries(root)[0].texts == 2


@pytest.mark.reliability("B37")
def test_a_run_that_reads_is_not_disturbed(
    root: Path, two: tuple[ActivationStore, ActivationStore], digests_of: Callable[..., Digests]
) -> None:
    stored = ActivationStore(root, two[0].key).find(digests_of(range(2)))
    again = ActivationStore(root, two[0].key).find(digests_of(range(2)))
    before, _ = again.batch(torch.arange(2))
    prune(root, keys=[], unused=0)
    after, _ = stored.batch(torch.arange(2))
    assert torch.equal(after.view(torch.uint8), before.view(torch.uint8))


def test_what_was_removed_can_be_built_again(
    root: Path,
    two: tuple[ActivationStore, ActivationStore],
    digests_of: Callable[..., Digests],
    random_ragged: Callable[..., Ragged],
) -> None:
    prune(root, keys=[], unused=0)
    with two[0].building(lambda: None):
        add(two[0], digests_of(range(2)), random_ragged([3, 2]))
    assert [entry.texts for entry in list_entries(root)] == [2]


def test_other_things_in_the_cache_folder_are_left_alone(
    root: Path, two: tuple[ActivationStore, ActivationStore]
) -> None:
    (root / "notes.txt").write_text("mine")
    (root / "activations" / "notes.txt").write_text("mine")
    prune(root, keys=[], unused=0)
    assert (root / "notes.txt").exists()
    assert (root / "activations" / "notes.txt").exists()


def test_a_manifest_says_what_was_computed(two: tuple[ActivationStore, ActivationStore]) -> None:
    manifest = json.loads((two[0].folder / MANIFEST).read_text())
    assert manifest["format"] == 1
    assert manifest["key"] == two[0].key.description


def test_a_folder_to_which_others_add_parts_is_busy(root: Path, two: tuple[ActivationStore, ActivationStore]) -> None:
    one = two[0]
    program = (
        "import sys; from pathlib import Path; from topwork.engine.encoding.store.claims import Claims; "
        "Claims(Path(sys.argv[1])).take('part'); print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(one.folder / CLAIMS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        removed, busy = prune(root, keys=[one.key.digest], unused=None)
        process.kill()
    assert ([entry.key for entry in removed], [entry.key for entry in busy]) == ([], [one.key.digest])
    removed, busy = prune(root, keys=[one.key.digest], unused=None)
    assert ([entry.key for entry in removed], busy) == ([one.key.digest], [])
