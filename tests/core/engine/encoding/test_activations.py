"""Activations are the same to the last bit wherever they come from, and a run says where that was."""

import hashlib
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from encoding_helpers import CPU, Counter, assert_same, digests_of, read
from store_helpers import add
from topwork.engine.encoding import activations as module
from topwork.engine.encoding.activations import tolerance, write_shards
from topwork.engine.encoding.corpus import tokenize
from topwork.engine.encoding.encoder import RecomputedActivations, encode
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.store import activation_store as store_module
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries, prune
from topwork.engine.encoding.store.digests import Digests
from topwork.engine.encoding.store.key import Key, make_key
from topwork.engine.encoding.store.shard_file import UNFINISHED, ShardFile, open_shard
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.engine.encoding.store_decision import DTYPES, EncodingJob
from topwork.engine.observer import Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment
from topwork.interfaces.pooling import PoolingConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

POOLINGS = pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()], ids=["cls", "mean"])


def dtype_of(prepared: Preparation) -> torch.dtype:
    return DTYPES[prepared.experiment.training.activation_dtype]


def fill(prepared: Preparation, values: Callable[[Tensor], Tensor]) -> ActivationStore:
    """Put what ``values`` makes of the activations into the store, under the right key."""
    store = ActivationStore(
        cache_folder(),
        make_key(prepared.model.prefix, prepared.experiment.pooling, dtype=dtype_of(prepared), device=CPU),
    )
    right = encode(
        prepared.model.prefix,
        prepared.corpus.sequences,
        device=CPU,
        dtype=dtype_of(prepared),
    )
    with store.building(lambda: None):
        add(store, digests_of(prepared.corpus), Ragged(values(right.values), right.offsets))
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "dtype"),
    [
        (ClsConfig(), "float32"),
        (MeanConfig(), "float32"),
        (MeanConfig(), "float16"),
        (ClsConfig(), "bfloat16"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.kind,
)
@pytest.mark.reliability("B33")
def test_training_gives_the_same_bits_wherever_activations_come_from(
    on_minilm: Make,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: PoolingConfig,
    dtype: str,
) -> None:
    off, require = (
        on_minilm(pooling=pooling, training={"store": store, "activation_dtype": dtype}) for store in ("off", "require")
    )
    kept = train(off)
    built = train(require)
    found = train(require)
    monkeypatch.setenv("TOPWORK_CACHE", str(tmp_path / "another"))
    part = train(on_minilm(limit=25, pooling=pooling, training={"store": "require", "activation_dtype": dtype}))
    extended = train(require)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    recomputed = train(off)

    runs = [kept, built, found, part, extended, recomputed]
    said = [(run.reports[0].where, run.reports[0].found, run.reports[0].texts) for run in runs]
    assert said == [
        ("memory", 0, 60),
        ("store", 0, 60),
        ("store", 60, 60),
        ("store", 0, 25),
        ("store", 25, 60),
        ("recomputed", 0, 60),
    ]
    for other in (built, found, extended, recomputed):
        assert_same(kept, other)


@pytest.mark.slow
@POOLINGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_have_the_activation_of_their_own_text(
    on_minilm: Make, pooling: PoolingConfig, dtype: torch.dtype
) -> None:
    prepared = prepare(on_minilm(pooling=pooling, training={"activation_dtype": str(dtype).removeprefix("torch.")}))
    for _ in range(2):  # built, then found
        for name, rows in read(prepared)[0].items():
            sequences = Sequences.of_texts(
                tokenize(prepared.model.backbone.tokenizer, prepared.dataset.splits[name].texts).token_ids
            )
            values, mask = encode(prepared.model.prefix, sequences, device=CPU).batch(torch.arange(rows.count))
            given = rows.batch(torch.arange(rows.count))
            assert given.hidden.dtype == torch.float32
            assert torch.equal(given.mask, mask)
            assert torch.equal(given.hidden[mask], values.to(dtype).float()[mask])


def repeated(write: Callable[..., Path]) -> Path:
    """A file of 40 rows with 5 distinct texts."""
    rows = [
        f"text {'very ' * (n % 5)}good,{('pos', 'neg')[n % 2]},{('books', 'music', 'tools')[n % 3]}" for n in range(40)
    ]
    return write("repeated.csv", "\n".join(["text,sentiment,category", *rows]))


@pytest.mark.slow
@pytest.mark.parametrize("store", ["off", "auto"])
def test_equal_texts_are_encoded_once(on_minilm: Make, write: Callable[..., Path], store: str) -> None:
    prepared = prepare(on_minilm(file=repeated(write), pooling=MeanConfig(), training={"store": store}))
    counter = Counter()
    data, report = read(prepared, counter)
    assert report.texts == prepared.plan.corpus_size.distinct_texts == 5
    assert counter.tokens == prepared.plan.corpus_size.distinct_tokens < prepared.plan.corpus_size.tokens
    assert counter.phases == [("encoding (tokens)", counter.tokens)]
    assert sum(rows.count for rows in data.values()) == 40


@pytest.mark.slow
def test_what_the_store_has_is_not_encoded_again(on_minilm: Make) -> None:
    part, whole = prepare(on_minilm(limit=25)), prepare(on_minilm())
    first, second, third = Counter(), Counter(), Counter()
    reports = [read(prepared, counter)[1] for prepared, counter in ((part, first), (whole, second), (whole, third))]
    assert first.tokens == part.plan.corpus_size.distinct_tokens
    assert second.tokens == whole.plan.corpus_size.distinct_tokens - part.plan.corpus_size.distinct_tokens
    assert (third.tokens, third.phases) == (0, [])
    assert [(report.found, report.texts) for report in reports] == [(0, 25), (25, 60), (60, 60)]
    assert [report.texts_per_second is None for report in reports] == [False, False, True]
    assert len({report.note for report in reports}) == 1
    assert [entry.key for entry in list_entries(cache_folder())] == [reports[0].note]


@pytest.mark.slow
def test_what_the_store_has_is_used_where_nothing_can_be_added(
    on_minilm: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = train(on_minilm(training={"store": "off"}))
    read(prepare(on_minilm(limit=25)))
    before = {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*.*")}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    whole, counter = prepare(on_minilm()), Counter()
    report = read(whole, counter)[1]
    assert (report.where, report.encoded, report.found) == ("memory", 35, 25)
    assert report.note.startswith("it needs 0.1 MB and ")
    assert counter.tokens < whole.plan.corpus_size.distinct_tokens
    assert_same(clean, train(on_minilm()))
    assert {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*.*")} == before


@pytest.mark.slow
def test_what_was_added_before_the_store_failed_is_not_encoded_again(
    on_minilm: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add, added = ActivationStore.add, list[int]()

    def fail_later(store: ActivationStore, shard: ShardFile) -> None:
        if added:
            raise StorageError("No space left on device")
        added.append(shard.texts)
        add(store, shard)

    monkeypatch.setattr(ActivationStore, "add", fail_later)
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    report = read(prepare(on_minilm()))[1]
    assert (report.where, report.note, report.found) == ("memory", "No space left on device", added[0])
    assert caplog.messages == ["going on without adding to the activation store: No space left on device"]


@pytest.mark.slow
def test_another_seed_and_other_heads_share_what_is_stored(on_minilm: Make) -> None:
    read(prepare(on_minilm()))
    tasks = {"mood": on_minilm().tasks["sentiment"]}
    assert read(prepare(on_minilm(tasks=tasks, training={"seed": 5})))[1].found == 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"pooling": MeanConfig()},
        {"freeze": AllExceptConfig(patterns=("layer.4.ffn",))},
        {"training": {"activation_dtype": "float16"}},
    ],
)
def test_what_is_stored_serves_no_other_cut_and_no_other_type(on_minilm: Make, change: dict[str, Any]) -> None:
    read(prepare(on_minilm()))
    assert read(prepare(on_minilm(**change)))[1].found == 0


@pytest.mark.slow
def test_poolings_share_what_is_stored_left_of_them(on_minilm: Make) -> None:
    first_layers = AllExceptConfig(patterns=("layer.4.ffn",))
    read(prepare(on_minilm(freeze=first_layers, pooling=ClsConfig())))
    assert read(prepare(on_minilm(freeze=first_layers, pooling=MeanConfig())))[1].found == 60


@pytest.mark.slow
def test_a_length_limit_that_truncates_nothing_shares_what_is_stored(on_minilm: Make) -> None:
    read(prepare(on_minilm()))
    assert read(prepare(on_minilm(backbone=MiniLmConfig(max_length=64))))[1].found == 60


@pytest.mark.slow
@POOLINGS
@pytest.mark.reliability("B31")
def test_a_store_that_holds_something_else_stops_the_run(on_minilm: Make, pooling: PoolingConfig) -> None:
    prepared = prepare(on_minilm(pooling=pooling))
    store = fill(prepared, lambda values: values + 0.5)
    with pytest.raises(StorageError) as caught:
        read(prepared)
    assert str(caught.value) == (
        f"{store.folder} does not hold what the encoder gives: a text computed again differs by 5.0e-01. "
        "The encoder's code has changed, or the folder comes from another machine; "
        f"remove it with: topwork cache prune {store.key.digest[:12]}, or set training.store: off"
    )
    prune(cache_folder(), keys=[store.key.digest[:12]], unused=None)
    assert read(prepared)[1].found == 0
    assert read(prepared)[1].found == 60


@pytest.mark.slow
def test_one_bit_is_enough_to_stop_the_run(on_minilm: Make) -> None:
    prepared = prepare(on_minilm())
    fill(prepared, lambda values: torch.nextafter(values, torch.tensor(math.inf)))
    with pytest.raises(StorageError, match="does not hold what the encoder gives"):
        read(prepared)


@pytest.mark.parametrize(
    ("device", "mixed", "dtype", "allowed"),
    [
        ("cpu", 3, "bfloat16", 0.0),
        ("meta", 0, "float32", 1e-3),
        ("meta", 0, "float16", 2**-8),
        ("meta", 0, "bfloat16", 2**-5),
        ("meta", 3, "float32", 2**-5),
    ],
)
def test_off_the_cpu_roundings_of_the_type_that_is_computed_in_are_allowed(
    job: EncodingJob, device: str, mixed: int, dtype: Any, allowed: float
) -> None:
    settings = job.settings.model_copy(update={"activation_dtype": dtype})
    prefix = replace(job.prefix, mixed_stages=mixed)
    assert tolerance(replace(job, device=torch.device(device), prefix=prefix, settings=settings)) == allowed


@pytest.mark.slow
@pytest.mark.parametrize("values", [lambda values: values * math.nan, torch.zeros_like])
def test_a_store_of_nothing_stops_the_run(on_minilm: Make, values: Callable[[Tensor], Tensor]) -> None:
    prepared = prepare(on_minilm())
    fill(prepared, values)
    with pytest.raises(StorageError, match="does not hold what the encoder gives"):
        read(prepared)


@pytest.mark.slow
def test_a_store_that_holds_something_else_does_not_matter_when_it_is_off(on_minilm: Make) -> None:
    prepared = prepare(on_minilm(training={"store": "off"}))
    fill(prepared, torch.zeros_like)
    assert read(prepared)[1].where == "memory"


@pytest.mark.slow
@POOLINGS
def test_a_store_that_holds_the_right_thing_passes(on_minilm: Make, pooling: PoolingConfig) -> None:
    prepared = prepare(on_minilm(pooling=pooling))
    fill(prepared, lambda values: values)
    assert read(prepared)[1].found == 60


class Builder(Observer):
    """Another process that encodes: once a run waits for it, it adds some texts and lets the lock go."""

    def __init__(self, prepared: Preparation, texts: int) -> None:
        self.prepared = prepared
        self.texts = texts
        self.phases: list[tuple[str, int]] = []
        self.store = ActivationStore(
            cache_folder(),
            make_key(
                prepared.model.prefix,
                prepared.experiment.pooling,
                dtype=dtype_of(prepared),
                device=CPU,
            ),
        )
        self.lock = FileLock(cache_folder() / "locks" / f"{self.store.key.digest}.lock")
        (cache_folder() / "locks").mkdir(parents=True)
        self.lock.acquire(timeout=0)

    def begin(self, phase: str, total: int) -> None:
        self.phases.append((phase, total))
        if phase.startswith("waiting"):
            corpus = self.prepared.corpus
            some = encode(self.prepared.model.prefix, corpus.sequences.take(torch.arange(self.texts)), device=CPU)
            add(self.store, digests_of(corpus).take(np.arange(self.texts)), some)
            self.lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("texts", [40, 60])
def test_a_run_waits_for_another_and_encodes_only_what_is_left(on_minilm: Make, train: Train, texts: int) -> None:
    plain = train(on_minilm(training={"store": "off"}))
    other = Builder(prepare(on_minilm()), texts)
    waited = train(on_minilm(), reader=other)
    left = int(other.prepared.corpus.sequences.lengths[texts:].sum())
    waiting = ("waiting for another process that encodes such texts", 0)
    assert other.phases == [waiting, ("encoding (tokens)", left)]
    said = waited.reports[0]
    assert (said.where, said.encoded, said.found) == ("store", 60 - texts, texts)
    assert (said.texts_per_second is None) == (texts == 60)
    assert_same(plain, waited)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Tensor, Tensor]]:
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=8))
    made, count = [], 0
    for texts, length in shapes:
        values = torch.arange(texts * length * 2, dtype=torch.float32) + 100 * count
        made.append((torch.arange(count, count + texts), values.view(texts, length, 2)))
        count += texts
    return made


def sizes_of(made: list[tuple[Tensor, Tensor]]) -> list[int]:
    return [values.nbytes for _, values in made]


class Recorded(ActivationStore):
    """What is added to a store, shard by shard.

    Args:
        begun: what is waited for before a shard is added.
        error: what adding fails with.
    """

    def __init__(self, folder: Path, begun: threading.Barrier | None = None, error: str = "") -> None:
        super().__init__(folder, Key({}))
        self.folder, self.begun, self.error = folder, begun, error
        self.busy = threading.Lock()
        self.shards: list[tuple[Tensor, Ragged]] = []

    def new_shard(self) -> ShardFile:
        return ShardFile(self.folder, mode=0o644)

    def add(self, file: ShardFile) -> None:
        assert self.busy.acquire(blocking=False), "two shards of one store are finished at a time"
        if self.begun:
            self.begun.wait(timeout=60)
        if self.error:
            raise StorageError(self.error)
        sha256, _ = file.finish()
        digests, activations = open_shard(self.folder / f"{sha256}.safetensors")
        self.shards.append((torch.tensor([NUMBERS[digest] for digest in digests]), activations))
        self.busy.release()

    @property
    def texts(self) -> list[list[int]]:
        return [numbers.tolist() for numbers, _ in self.shards]


#: Digests of numbered texts, and their numbers.
DIGESTS = Digests.of([hashlib.sha256(str(number).encode()).digest() for number in range(100)])
NUMBERS = {digest: number for number, digest in enumerate(DIGESTS)}


@pytest.fixture
def job(make: Make) -> EncodingJob:
    prepared = prepare(make())
    return prepared.encoding_job(prepared.plan.phases[0], CPU)


def write(
    stores: Sequence[Recorded], made: Iterable[tuple[int, Tensor, Tensor]], *, expected: int = 0
) -> list[list[tuple[Tensor, Ragged]]]:
    """Write batches, and return the shards of each store."""
    write_shards([(DIGESTS, store) for store in stores], made, expected=expected)
    return [store.shards for store in stores]


def joined(made: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Ragged]]:
    """Join batches of one store."""
    with tempfile.TemporaryDirectory() as folder:
        return write([Recorded(Path(folder))], [(0, *batch) for batch in made])[0]


def assert_whole(made: list[tuple[Tensor, Tensor]], shards: list[tuple[Tensor, Ragged]]) -> None:
    """Check that shards hold every text once, in order, with its values."""
    expected = {int(number): values[place] for numbers, values in made for place, number in enumerate(numbers)}
    found = {}
    for numbers, activations in shards:
        pieces = activations.values.split(activations.lengths.tolist())
        found |= dict(zip(numbers.tolist(), pieces, strict=True))
    assert list(found) == list(expected)
    assert all(torch.equal(found[number], expected[number]) for number in expected)


@pytest.mark.slow
@given(batches(), st.integers(1, 400))
def test_a_shard_ends_with_the_batch_that_fills_it(made: list[tuple[Tensor, Tensor]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_BYTES", size)
        patch.setattr(module, "SHARD_SECONDS", math.inf)
        shards = joined(made)
    assert_whole(made, shards)
    sizes = iter(sizes_of(made))
    for number, (_, activations) in enumerate(shards, 1):
        taken = 0
        while taken < activations.values.nbytes:
            assert taken < size
            taken += next(sizes)
        assert taken == activations.values.nbytes
        assert taken >= size or number == len(shards)


@given(batches())
def test_a_slow_build_writes_every_batch(made: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_SECONDS", 0.0)
        shards = joined(made)
    assert_whole(made, shards)
    assert [activations.values.nbytes for _, activations in shards] == sizes_of(made)


def test_a_shard_is_written_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 25))  # seconds: one look per batch, and one where a shard begins
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    made = [(torch.tensor([number]), torch.zeros(1, 2, 3)) for number in range(7)]
    assert [len(numbers) for numbers, _ in joined(made)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("expected", "sizes"),
    [(0, [8]), (8 * 24, [2, 2, 2, 2]), (3 * 24, [1] * 8), (10**9, [8])],
    ids=["not known", "four parts", "no smaller than a part must be", "no larger than a shard may be"],
)
def test_a_large_build_is_written_part_by_part(
    expected: int, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 20)
    monkeypatch.setattr(module, "SHARD_BYTES", 8 * 24)
    made = [(0, torch.tensor([number]), torch.zeros(1, 2, 3)) for number in range(8)]
    assert [len(texts) for texts, _ in write([Recorded(tmp_path)], made, expected=expected)[0]] == sizes


def test_what_several_stores_need_is_joined_for_each(tmp_path: Path) -> None:
    made = [
        (store, torch.tensor([number]), torch.full((1, 1, 2), float(number + store)))
        for number in (0, 1)
        for store in (0, 1)
    ]
    stores = [Recorded(tmp_path), Recorded(tmp_path)]
    found = [[(texts.tolist(), one.values[:, 0].tolist()) for texts, one in of] for of in write(stores, made)]
    assert found == [[([0, 1], [0, 1])], [([0, 1], [1, 2])]]


def single_texts(stores: Sequence[int]) -> list[tuple[int, Tensor, Tensor]]:
    """Give each of some stores a text, of which each is a shard."""
    return [(store, torch.tensor([text]), torch.zeros(1, 1, 2)) for text, store in enumerate(stores)]


def test_shards_of_two_stores_are_finished_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 16)
    begun = threading.Barrier(2)
    stores = [Recorded(tmp_path, begun), Recorded(tmp_path, begun)]
    write(stores, single_texts([0, 1, 0, 1]))
    assert [store.texts for store in stores] == [[[0], [2]], [[1], [3]]]


def test_shards_of_one_store_are_finished_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    store = Recorded(tmp_path)
    write([store], single_texts([0] * 20))
    assert store.texts == [[number] for number in range(20)]


@pytest.mark.parametrize("numbers", [[0, 1], [1, 0], [1, 0, 0, 0]])
def test_a_shard_that_cannot_be_written_is_an_error(
    tmp_path: Path, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    with pytest.raises(StorageError, match="no room"):
        write([Recorded(tmp_path), Recorded(tmp_path, error="no room")], single_texts(numbers))
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


@pytest.mark.slow
@POOLINGS
def test_training_from_several_shards_equals_training_from_one(
    on_minilm: Make, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pooling: PoolingConfig
) -> None:
    one = train(on_minilm(pooling=pooling))
    monkeypatch.setenv("TOPWORK_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 1)  # so that they are not made one again
    several = train(on_minilm(pooling=pooling))
    again = train(on_minilm(pooling=pooling))
    assert [shards_of(run) > 1 for run in (one, several, again)] == [False, True, True]
    assert [run.reports[0].found for run in (one, several, again)] == [0, 0, 60]
    assert_same(one, several)
    assert_same(one, again)


def shards_of(trained: Any) -> int:
    """How many shards a run trained from."""
    stored = trained.data["train"].activations
    assert isinstance(stored, StoredActivations)
    return len(stored.shards)


def test_half_of_the_free_memory_is_enough(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(make(training={"store": "off"}))
    needed = prepared.plan.kept_bytes(prepared.plan.phases[0])
    for available, kind in ((2 * needed, Ragged), (2 * needed - 1, RecomputedActivations)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=available: SimpleNamespace(available=free))
        assert isinstance(read(prepared)[0]["train"].activations, kind)


def test_little_memory_does_not_matter_to_the_store(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    assert [read(prepare(make()))[1].where for _ in range(2)] == ["store", "store"]
