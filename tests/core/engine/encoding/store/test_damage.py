"""What is damaged in a folder of the activation store is named, counts as absent, and is built again."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from store_helpers import add, build, everything, files_in, held, merge, named_in, shards_in
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.store import shard_file
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST, Manifest

OpenStore = Callable[[], ActivationStore]
DigestsOf = Callable[..., Digests]
RandomRagged = Callable[..., Ragged]
BitsOf = Callable[[tuple[Tensor, Tensor]], list[bytes]]
Fill = Callable[..., None]


#: Creates the file named OWNED in the working folder when it is unpickled.
PICKLE = b"cposix\nsystem\n(S'touch OWNED'\ntR."


def flip(path: Path, position: int, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def test_merging_leaves_a_damaged_shard_out(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    fill: Fill,
) -> None:
    parts = [random_ragged([3, 2], seed=number) for number in range(3)]
    fill(parts[0])
    (first,) = shards_in(open_store().folder)
    for number in (1, 2):
        fill(parts[number], first=2 * number)
    flip(first, -1)
    merge(open_store())
    stored = open_store().find(digests_of(range(6)))
    assert held(stored) == [2, 3, 4, 5]
    expected = bits_of(everything(parts[1])) + bits_of(everything(parts[2]))
    assert bits_of(stored.batch(torch.arange(2, 6))) == expected


def check_rebuilding(
    open_store: OpenStore, digests: Digests, activations: Ragged, bits_of: BitsOf, missing: list[int]
) -> None:
    """Add what is missing, as a run does, and look whether all is there again and nothing else."""
    store = open_store()
    with store.building(lambda: None):
        again = store.find(digests).missing
        assert again.tolist() == missing
        add(store, digests.take(again.numpy()), activations.take(again))
        store.merge()
    assert files_in(store.folder) == named_in(store.folder)
    rebuilt = open_store().find(digests)
    assert held(rebuilt) == list(range(len(digests)))
    assert bits_of(rebuilt.batch(torch.arange(len(digests)))) == bits_of(everything(activations))


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_last_bit(path: Path) -> None:
    flip(path, -1)


def pickle_instead(path: Path) -> None:
    path.write_bytes(PICKLE)


@pytest.mark.parametrize("damage", [delete, truncate, empty, flip_last_bit, pickle_instead])
@pytest.mark.reliability("B24", "B26")
def test_a_damaged_shard_is_told_once_and_encoded_again(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    fill: Fill,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    activations, digests = random_ragged([3, 2, 4, 1]), digests_of(range(4))
    fill(activations.take(torch.tensor([0, 1])))
    (first,) = shards_in(open_store().folder)
    fill(activations.take(torch.tensor([2, 3])), first=2)
    damage(first)
    store = open_store()
    for _ in range(3):
        assert store.find(digests).missing.tolist() == [0, 1]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{first} is damaged: " in warning.getMessage()
    assert warning.getMessage().endswith("; its 2 texts are encoded again")
    check_rebuilding(open_store, digests, activations, bits_of, [0, 1])
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data(), mask=st.integers(1, 255))
@pytest.mark.reliability("B25")
def test_a_flipped_byte_anywhere_in_a_shard_is_noticed(
    data: st.DataObject, mask: int, key: Key, digests_of: DigestsOf, random_ragged: RandomRagged, bits_of: BitsOf
) -> None:
    activations, digests = random_ragged([3, 2]), digests_of(range(2))
    with tempfile.TemporaryDirectory() as root:
        build(ActivationStore(Path(root), key), digests, activations)
        (shard,) = shards_in(ActivationStore(Path(root), key).folder)
        flip(shard, data.draw(st.integers(0, shard.stat().st_size - 1)), mask)
        assert ActivationStore(Path(root), key).find(digests).missing.tolist() == [0, 1]
        check_rebuilding(lambda: ActivationStore(Path(root), key), digests, activations, bits_of, [0, 1])


def write_as_shard(store: ActivationStore, content: bytes) -> None:
    """Put a file into the store that the manifest names with its right size and sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    (store.folder / f"{sha256}.safetensors").write_bytes(content)
    manifest = json.loads((store.folder / MANIFEST).read_text())
    manifest["shards"] = [{"sha256": sha256, "bytes": len(content), "texts": 2}]
    (store.folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_pickle_that_the_manifest_vouches_for_is_not_unpickled(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    fill(random_ragged([3, 2]))
    write_as_shard(open_store(), PICKLE)
    assert open_store().find(digests_of(range(2))).missing.tolist() == [0, 1]
    assert len(caplog.records) == 1
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "key": {}, "shards": []}',
        b'{"format": 1, "key": {}, "shards": [], "more": 1}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        PICKLE,
    ],
)
@pytest.mark.reliability("B26")
def test_a_damaged_manifest_is_told_once_and_what_it_named_is_encoded_again(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    fill: Fill,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    tmp_path: Path,
) -> None:
    activations, digests = random_ragged([3, 2]), digests_of(range(2))
    fill(activations)
    manifest = open_store().folder / MANIFEST
    manifest.write_bytes(content)
    store = open_store()
    for _ in range(3):
        assert store.find(digests).missing.tolist() == [0, 1]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{manifest} is damaged" in warning.getMessage()
    check_rebuilding(open_store, digests, activations, bits_of, [0, 1])
    assert not (tmp_path / "OWNED").exists()


@settings(max_examples=100)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_nothing_in_a_manifest_makes_a_reader_fail(content: bytes, key: Key, digests_of: DigestsOf) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = ActivationStore(Path(root), key)
        store.folder.mkdir(parents=True)
        (store.folder / MANIFEST).write_bytes(content)
        assert store.find(digests_of(range(2))).missing.tolist() == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "../../secret", "/etc/passwd", "a" * 63 + "/", "A" * 64, "a" * 64 + "\n", "a" * 65, ""],
)
def test_a_manifest_cannot_name_a_file_elsewhere(
    open_store: OpenStore, digests_of: DigestsOf, root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    store = open_store()
    store.folder.mkdir(parents=True)
    secret = root / "secret.safetensors"
    secret.write_bytes(b"secret")
    shard = {"sha256": name, "bytes": 6, "texts": 2}
    manifest = {"format": 1, "key": store.key.description, "shards": [shard]}
    (store.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="sha256"):
        Manifest.model_validate(manifest)
    assert store.find(digests_of(range(2))).missing.tolist() == [0, 1]
    assert "is damaged" in caplog.text
    merge(open_store())
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize("error", [OSError(), SafetensorError()], ids=["the system", "the library"])
def test_a_shard_that_cannot_be_opened_for_no_stated_reason_is_named(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    fill(random_ragged([3, 2]))

    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(shard_file, "safe_open", fail)
    assert held(open_store().find(digests_of(range(2)))) == []
    assert f"is damaged: {type(error).__name__}; its 2 texts are encoded again" in caplog.text
