"""A folder of the activation store gives back every bit, in shards that readers and builders share."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from store_helpers import build, everything, files_in, held, merge, named_in, shards_in
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.store import activation_store as store_module
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import prune
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key
from topwork.engine.encoding.store.manifest import MANIFEST, Manifest

OpenStore = Callable[[], ActivationStore]
DigestsOf = Callable[..., Digests]
RandomRagged = Callable[..., Ragged]
BitsOf = Callable[[tuple[Tensor, Tensor]], list[bytes]]
Fill = Callable[..., None]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def test_nothing_is_found_in_and_nothing_made_of_a_folder_that_is_not_there(
    open_store: OpenStore, digests_of: DigestsOf, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = open_store().find(digests_of(range(3)))
    assert stored.missing.tolist() == [0, 1, 2]
    assert not root.exists()
    assert not caplog.records


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[3, 1, 7, 2], [1, 1, 1, 1], [5]])
def test_what_is_added_is_found_bit_for_bit(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    dtype: torch.dtype,
    lengths: list[int],
) -> None:
    activations = random_ragged(lengths, dtype=dtype)
    digests = digests_of(range(len(lengths)))
    build(open_store(), digests, activations)
    stored = open_store().find(digests)
    values, mask = everything(activations)
    found, found_mask = stored.batch(torch.arange(len(lengths)))
    assert not len(stored.missing)
    assert found.dtype == dtype
    assert torch.equal(found_mask, mask)
    assert bits_of((found, found_mask)) == bits_of((values, mask))


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[list[int]], int, torch.dtype, list[int]]:
    """The lengths of the texts of some adds, a width, a type, and numbers of texts to look up, some never added."""
    adds = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4))
    texts = sum(map(len, adds))
    wanted = draw(st.permutations(range(texts + 3)))[: draw(st.integers(1, texts + 3))]
    return adds, draw(st.integers(1, 5)), draw(st.sampled_from(DTYPES)), wanted


@settings(max_examples=50)
@given(drawn=contents(), merged=st.booleans())
def test_texts_are_found_in_any_order_whatever_shards_they_are_in(
    drawn: tuple[list[list[int]], int, torch.dtype, list[int]],
    merged: bool,
    key: Key,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
) -> None:
    adds, width, dtype, wanted = drawn
    lengths = [length for add in adds for length in add]
    whole = random_ragged(lengths, width=width, dtype=dtype)
    with tempfile.TemporaryDirectory() as root:
        first = 0
        for add in adds:
            numbers = torch.arange(first, first + len(add))
            build(ActivationStore(Path(root), key), digests_of(numbers.tolist()), whole.take(numbers))
            first += len(add)
        if merged:
            store = ActivationStore(Path(root), key)
            with store.building(lambda: None):
                store.merge()
        stored = ActivationStore(Path(root), key).find(digests_of(wanted))
    there = [place for place, number in enumerate(wanted) if number < len(lengths)]
    assert held(stored) == there
    assert stored.missing.tolist() == [place for place in range(len(wanted)) if place not in there]
    if there:
        found, mask = stored.batch(torch.tensor(there))
        expected, expected_mask = whole.batch(torch.tensor([wanted[place] for place in there]))
        assert torch.equal(mask, expected_mask)
        assert bits_of((found, mask)) == bits_of((expected, expected_mask))


def test_a_store_is_extended_and_keeps_what_it_had(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, bits_of: BitsOf, fill: Fill
) -> None:
    first, second = random_ragged([2, 5]), random_ragged([4, 1, 1], seed=1)
    fill(first)
    assert held(open_store().find(digests_of(range(5)))) == [0, 1]
    fill(second, first=2)
    stored = open_store().find(digests_of(range(5)))
    assert held(stored) == [0, 1, 2, 3, 4]
    assert bits_of(stored.batch(torch.arange(5))) == bits_of(everything(first)) + bits_of(everything(second))


def test_the_same_shard_written_twice_is_named_once(
    open_store: OpenStore, random_ragged: RandomRagged, fill: Fill
) -> None:
    fill(random_ragged([2, 5]))
    fill(random_ragged([2, 5]))
    assert len(open_store().listed_shards()) == 1


def test_a_shard_is_named_by_its_own_sha256(open_store: OpenStore, random_ragged: RandomRagged, fill: Fill) -> None:
    fill(random_ragged([2, 5]))
    (shard,) = shards_in(open_store().folder)
    assert shard.stem == hashlib.sha256(shard.read_bytes()).hexdigest()
    assert json.loads((shard.parent / MANIFEST).read_text())["key"] == open_store().key.description


def test_merging_makes_one_shard_of_many_and_drops_nothing(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, bits_of: BitsOf, fill: Fill
) -> None:
    parts = [random_ragged([number + 1, 2], seed=number, dtype=torch.bfloat16) for number in range(5)]
    for number, part in enumerate(parts):
        fill(part, first=2 * number)
    before = open_store().find(digests_of(range(10)))
    merge(open_store())
    folder = open_store().folder
    assert len(shards_in(folder)) == 1
    assert files_in(folder) == named_in(folder)
    after = open_store().find(digests_of(range(10)))
    assert held(after) == list(range(10))
    assert after.batch(torch.arange(10))[0].dtype == torch.bfloat16
    assert bits_of(after.batch(torch.arange(10))) == bits_of(before.batch(torch.arange(10)))


def test_merging_makes_no_shard_that_is_too_large(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(6):
        fill(random_ragged([50], seed=number), first=number)
    fill(random_ragged([1000], seed=6), first=6)
    size = min(path.stat().st_size for path in shards_in(open_store().folder))
    monkeypatch.setattr(store_module, "SHARD_BYTES", 3 * size)
    merge(open_store())
    sizes = sorted(path.stat().st_size for path in shards_in(open_store().folder))
    assert len(sizes) == 3  # three of the small ones are one now, as are the other three; the large one is as it was
    assert sizes[-2] <= 3 * size
    assert held(open_store().find(digests_of(range(7)))) == list(range(7))


def test_large_shards_are_merged_once_they_are_many(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MERGED_AT_ONCE", 1)
    for number in range(9):
        fill(random_ragged([50], seed=number), first=number)
        assert len(shards_in(open_store().folder)) == number + 1
        if number < 8:
            merge(open_store())
    merge(open_store())
    assert len(shards_in(open_store().folder)) == 1
    assert held(open_store().find(digests_of(range(9)))) == list(range(9))


def test_merging_one_shard_or_none_changes_nothing(
    open_store: OpenStore, random_ragged: RandomRagged, fill: Fill
) -> None:
    merge(open_store())
    assert not open_store().folder.exists()
    fill(random_ragged([2, 5]))
    before = files_in(open_store().folder)
    merge(open_store())
    assert files_in(open_store().folder) == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_mapped_from_the_file_and_not_read_into_memory(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, fill: Fill, dtype: torch.dtype
) -> None:
    fill(random_ragged([1000, 2000], dtype=dtype))
    stored = open_store().find(digests_of(range(2)))
    (file,) = shards_in(open_store().folder)
    address = stored.shards[0].values.data_ptr()
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if start <= address < end:
            mapped.append(line)
    assert len(mapped) == 1
    assert mapped[0].endswith(str(file))


@pytest.mark.parametrize("change", ["merged", "pruned"])
@pytest.mark.reliability("B36")
def test_a_reader_keeps_its_values_while_the_shards_go(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    bits_of: BitsOf,
    fill: Fill,
    root: Path,
    change: str,
) -> None:
    first, second = random_ragged([3000, 2]), random_ragged([4, 2000], seed=1)
    fill(first)
    fill(second, first=2)
    stored = open_store().find(digests_of(range(4)))
    before = shards_in(open_store().folder)
    if change == "merged":
        merge(open_store())
    else:
        prune(root, keys=[open_store().key.digest], unused=None)
    assert not any(path.exists() for path in before)
    assert bits_of(stored.batch(torch.arange(4))) == bits_of(everything(first)) + bits_of(everything(second))


@pytest.mark.parametrize("moment", ["before the shards are opened", "before the second is opened", "before hashing"])
def test_a_reader_finds_shards_that_were_replaced_while_it_looked(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: str,
) -> None:
    fill(random_ragged([3, 2]))
    fill(random_ragged([4, 1], seed=1), first=2)
    reader, calls = open_store(), 0
    name = "is_sound" if moment == "before hashing" else "_open"
    original = getattr(reader, name)

    def replace_first(shard: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (2 if moment == "before the second is opened" else 1):
            merge(open_store())
        return original(shard)

    monkeypatch.setattr(reader, name, replace_first)
    stored = reader.find(digests_of(range(4)))
    assert held(stored) == [0, 1, 2, 3]
    assert not caplog.records


def test_a_reader_whose_folder_is_pruned_while_it_looks_finds_nothing(
    open_store: OpenStore,
    digests_of: DigestsOf,
    random_ragged: RandomRagged,
    fill: Fill,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(random_ragged([3, 2]))
    reader = open_store()
    original = reader._open

    def prune_first(shard: object) -> object:
        prune(root, keys=[reader.key.digest], unused=None)
        return original(shard)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(reader, "_open", prune_first)
    assert reader.find(digests_of(range(2))).missing.tolist() == [0, 1]
    assert not caplog.records


@pytest.mark.reliability("B26")
def test_the_next_build_removes_files_that_the_manifest_does_not_name(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, fill: Fill
) -> None:
    fill(random_ragged([3, 2]))
    folder = open_store().folder
    for name in (f"{'a' * 64}.safetensors", f".{MANIFEST}.x7k2", f".{'b' * 64}.safetensors.abcd"):
        (folder / name).write_bytes(b"half")
    assert held(open_store().find(digests_of(range(2)))) == [0, 1]
    assert len(files_in(folder)) == 5  # a reader removes nothing
    fill(random_ragged([1], seed=1), first=2)
    assert files_in(folder) == named_in(folder)
    assert held(open_store().find(digests_of(range(3)))) == [0, 1, 2]


def test_finding_something_marks_the_folder_as_used(
    open_store: OpenStore, digests_of: DigestsOf, random_ragged: RandomRagged, fill: Fill
) -> None:
    fill(random_ragged([3, 2]))
    folder = open_store().folder
    os.utime(folder, (1e9, 1e9))
    open_store().find(digests_of([7]))
    assert folder.stat().st_mtime == 1e9
    open_store().find(digests_of([0]))
    assert folder.stat().st_mtime > 1e9


def test_an_empty_shard_list_is_a_store_without_texts(open_store: OpenStore, digests_of: DigestsOf) -> None:
    store = open_store()
    store.folder.mkdir(parents=True)
    (store.folder / MANIFEST).write_text(Manifest(key=store.key.description).model_dump_json())
    assert store.find(digests_of(range(2))).missing.tolist() == [0, 1]
    build(open_store(), digests_of([0]), Ragged(torch.ones(1, 4), offsets_of(torch.tensor([1]))))
    assert held(open_store().find(digests_of(range(2)))) == [0]
