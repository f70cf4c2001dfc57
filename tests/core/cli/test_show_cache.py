"""``topwork cache`` lists, verifies and prunes what is stored, and says what it did."""

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from store_helpers import add
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import list_entries
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST

Command = Callable[..., tuple[int, str, str]]
Store = Callable[..., ActivationStore]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The cache folder that TOPWORK_CACHE names."""
    return tmp_path / "cache"


@pytest.fixture
def store(root: Path) -> Store:
    """Store activations of some texts after a stage, last used so many days ago."""

    def make(stage: str = "layer.1.ffn", *, texts: int = 3, unused: float = 0) -> ActivationStore:
        description = {
            "backbone": "somewhere.TinyBackbone",
            "stages": ["embeddings", stage],
            "keeps": "tokens",
            "dtype": "float16",
        }
        made = ActivationStore(root, Key(description))
        digests = Digests.of([hashlib.sha256(str(number).encode()).digest() for number in range(texts)])
        with made.building(lambda: None):
            add(made, digests, Ragged(torch.ones(2 * texts, 4), offsets_of(torch.full((texts,), 2))))
        last_used = time.time() - unused * 86400
        os.utime(made.folder, (last_used, last_used))
        return made

    return make


def shard_of(store: ActivationStore) -> Path:
    (shard,) = store.folder.glob("*.safetensors")
    return shard


def test_list_says_that_nothing_is_stored(command: Command, root: Path) -> None:
    assert command("cache", "list") == (0, f"nothing is stored in {root}\n", "")


def test_list_shows_what_is_stored_the_last_used_first(command: Command, store: Store, root: Path) -> None:
    old, new = store("layer.0.ffn", texts=1200, unused=12.2), store("layer.1.ffn", texts=3)
    code, out, err = command("cache", "list")
    assert (code, err) == (0, "")
    _, first, second, total = (line.split() for line in out.splitlines())
    assert first[:7] == [new.key.digest[:12], "TinyBackbone", "after", "layer.1.ffn", "tokens", "float16", "3"]
    assert first[-1] == "today"
    assert second[:7] == [old.key.digest[:12], "TinyBackbone", "after", "layer.0.ffn", "tokens", "float16", "1,200"]
    assert second[-3:] == ["12", "days", "ago"]
    assert total[-1] == str(root)


def test_list_shows_a_damaged_folder(command: Command, store: Store) -> None:
    damaged = store()
    (damaged.folder / MANIFEST).write_text("{")
    code, out, err = command("cache", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:2] == [damaged.key.digest[:12], "damaged"]


@pytest.mark.parametrize("key", [{}, {"stages": []}, {"stages": [], "backbone": "a", "keeps": "b", "dtype": "c"}])
def test_list_shows_a_folder_whose_manifest_describes_something_else(
    command: Command, store: Store, key: dict[str, object]
) -> None:
    odd = store()
    manifest = json.loads((odd.folder / MANIFEST).read_text())
    (odd.folder / MANIFEST).write_text(json.dumps(manifest | {"key": key}))
    code, out, _ = command("cache", "list")
    assert code == 0
    assert odd.key.digest[:12] in out


def test_verify_says_that_all_is_well(command: Command, store: Store) -> None:
    assert command("cache", "verify") == (0, "0 files in 0 folders are as they were written\n", "")
    store("layer.0.ffn")
    store("layer.1.ffn")
    assert command("cache", "verify") == (0, "2 files in 2 folders are as they were written\n", "")


def test_verify_names_each_damaged_file(command: Command, store: Store) -> None:
    flipped, deleted = shard_of(store("layer.0.ffn")), shard_of(store("layer.1.ffn"))
    torn = store("layer.2.ffn").folder / MANIFEST
    store("layer.3.ffn")
    content = bytearray(flipped.read_bytes())
    content[100] ^= 1
    flipped.write_bytes(content)
    deleted.unlink()
    torn.write_text("{")
    code, out, err = command("cache", "verify")
    assert (code, out) == (5, "")
    *errors, last = err.splitlines()
    assert {error.removeprefix("error: ").partition(": ")[0] for error in errors} == {
        str(flipped),
        str(deleted),
        str(torn),
    }
    assert last == "error: 3 files are damaged; what is damaged is encoded again by the next run that needs it"


def test_prune_removes_what_is_named_by_the_beginning_of_its_key(command: Command, store: Store, root: Path) -> None:
    first, second = store("layer.0.ffn"), store("layer.1.ffn")
    code, out, err = command("cache", "prune", first.key.digest[:12])
    assert (code, err) == (0, "")
    assert out.startswith(f"removed {first.key.digest[:12]}, 3 texts, ")
    assert [entry.key for entry in list_entries(root)] == [second.key.digest]


def test_prune_removes_what_was_not_used_for_some_days(command: Command, store: Store, root: Path) -> None:
    old, new = store("layer.0.ffn", unused=31), store("layer.1.ffn", unused=3)
    assert command("cache", "prune", "--unused", 40) == (0, "nothing was unused for 40 days\n", "")
    code, out, _ = command("cache", "prune", "--unused", 30)
    assert code == 0
    assert out.startswith(f"removed {old.key.digest[:12]}")
    assert [entry.key for entry in list_entries(root)] == [new.key.digest]
    command("cache", "prune", "--unused", 0)
    assert list_entries(root) == []


def test_prune_of_an_empty_cache_finds_nothing(command: Command) -> None:
    assert command("cache", "prune", "--unused", 0) == (0, "nothing was unused for 0 days\n", "")


@pytest.mark.parametrize("key", ["fffffffff", ""])
def test_prune_refuses_an_unknown_key(command: Command, store: Store, root: Path, key: str) -> None:
    store()
    message = f"error: nothing is stored under {key!r}; `topwork cache list` shows the keys\n"
    assert command("cache", "prune", key) == (2, "", message)
    assert len(list_entries(root)) == 1


def test_prune_asks_what_to_remove(command: Command, store: Store, root: Path) -> None:
    store()
    code, out, err = command("cache", "prune")
    assert (code, out) == (2, "")
    assert err == "error: say what to remove: keys, as `topwork cache list` shows them, or --unused DAYS\n"
    assert len(list_entries(root)) == 1


def test_prune_keeps_and_names_a_folder_that_is_being_added_to(command: Command, store: Store, root: Path) -> None:
    busy, idle = store("layer.0.ffn"), store("layer.1.ffn")
    with busy.building(lambda: None):
        code, out, err = command("cache", "prune", "--unused", 0)
    assert (code, err) == (0, "")
    assert f"kept {busy.key.digest[:12]}: a process is adding to it" in out.splitlines()
    assert f"removed {idle.key.digest[:12]}" in out
    assert [entry.key for entry in list_entries(root)] == [busy.key.digest]


def test_prune_does_not_disturb_a_run_that_reads(command: Command, store: Store, root: Path) -> None:
    kept = store(texts=2000)
    digests = Digests.of([hashlib.sha256(str(number).encode()).digest() for number in range(200)])
    stored = ActivationStore(root, kept.key).find(digests)
    assert command("cache", "prune", "--unused", 0)[0] == 0
    assert not kept.folder.exists()
    values, mask = stored.batch(torch.arange(200))
    assert bool(mask.all())
    assert bool((values == 1).all())


@pytest.mark.parametrize("root", [Path("/proc/no/such"), Path("nowhere")])
def test_there_is_nothing_to_prune_where_there_is_no_cache(
    command: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPWORK_CACHE", str(root))
    assert command("cache", "prune", "--unused", "3") == (0, "nothing was unused for 3 days\n", "")


@pytest.mark.parametrize("days", ["-1", "nan", "many"])
def test_prune_refuses_what_is_no_number_of_days(command: Command, store: Store, root: Path, days: str) -> None:
    store()
    assert command("cache", "prune", "--unused", days)[0] == 2
    assert len(list_entries(root)) == 1


def test_what_is_stored_is_listed_for_programs_too(command: Command, store: Store) -> None:
    made = store(texts=3, unused=2)
    _, out, _ = command("cache", "list", "--format", "csv")
    _, other, _ = command("cache", "list", "--format", "json")
    (row,), (same,) = csv.DictReader(io.StringIO(out)), json.loads(other)
    assert row["key"] == same["key"] == made.key.digest
    assert (same["cut"], same["kept"], same["type"], same["texts"]) == ("after layer.1.ffn", "tokens", "float16", 3)
    assert int(row["bytes"]) == sum(path.stat().st_size for path in made.folder.iterdir())
    assert float(row["days_unused"]) == pytest.approx(2, abs=0.1)


def test_nothing_stored_is_an_empty_list_for_programs(command: Command) -> None:
    assert command("cache", "list", "--format", "json") == (0, "[]\n", "")
