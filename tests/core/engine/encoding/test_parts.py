"""A corpus is divided alike by every process, and stored to the same bits as by one that encodes it alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoding_helpers import CPU, EVERY_TOKEN, read
from topwork.engine.encoding import activations as activations_module
from topwork.engine.encoding import parts as module
from topwork.engine.encoding.parts import divide_corpus, encode_in_parts
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.store.activation_store import CLAIMS, ActivationStore
from topwork.engine.encoding.store.manifest import MANIFEST
from topwork.engine.encoding.store.shard_file import ShardFile
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.engine.encoding.store_decision import EncodingJob, decide_store
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]


def sequences_of_lengths(lengths: list[int]) -> Sequences:
    values = torch.arange(sum(lengths), dtype=torch.int64)
    return Sequences.of_texts(Ragged(values, offsets_of(torch.tensor(lengths))))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=300))
def test_each_text_is_in_one_part_and_parts_have_about_as_many_tokens(lengths: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_TOKENS", 500)
        sequences = sequences_of_lengths(lengths)
        parts = divide_corpus(sequences, sequences.digests(EVERY_TOKEN))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    of_parts = [sum(lengths[text] for text in part) for part in parts]
    assert all(abs(tokens - 500) <= 400 for tokens in of_parts[:-1]) or sum(lengths) > 64 * 500
    flat = [lengths[text] for part in parts for text in part]
    assert flat == sorted(flat)


@pytest.fixture
def job(make: Make) -> EncodingJob:
    prepared = prepare(make())
    return prepared.encoding_job(prepared.plan.phases[0], CPU)


def store_of(job: EncodingJob) -> ActivationStore:
    store = decide_store(job).store
    assert store is not None
    return store


def found(job: EncodingJob) -> StoredActivations:
    return store_of(job).find(job.digests)


def test_what_is_stored_in_parts_is_what_one_process_stores(
    make: Make, job: EncodingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_TOKENS", 20)
    share = encode_in_parts([(job, store_of(job))], Observer())
    assert share.encoded == len(job.digests)
    assert not len(found(job).missing)
    every = torch.arange(len(job.digests))
    alone, report = read(prepare(make(training={"store": "off"})))
    assert report.where == "memory"
    for one, other in zip(found(job).batch(every), alone["train"].activations.batch(every), strict=True):
        assert torch.equal(one, other)
    assert read(prepare(make()))[1].encoded == 0


def test_nothing_is_encoded_twice_and_one_shard_is_left(job: EncodingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_TOKENS", 20)
    assert encode_in_parts([(job, store_of(job))], Observer()).encoded
    assert encode_in_parts([(job, store_of(job))], Observer()).encoded == 0
    (shard,) = store_of(job).listed_shards()
    assert shard.texts == len(job.digests)
    assert {path.name for path in store_of(job).folder.iterdir()} == {"manifest.json", shard.file, "claims"}


def test_a_run_that_begins_while_others_encode_in_parts_joins_them(
    make: Make, job: EncodingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = list[str]()

    def join(stores: object, observer: Observer) -> module.Share:
        joined.append("joined")
        return module.Share(0, 0.0, "")

    monkeypatch.setattr(activations_module, "encode_in_parts", join)
    monkeypatch.setattr(ActivationStore, "is_shared", lambda store: True)
    assert read(prepare(make()))[1].encoded == len(job.digests)
    assert joined == ["joined"]


@pytest.mark.parametrize("manifest", ["{", None], ids=["damaged", "gone"])
def test_a_manifest_that_is_of_no_use_costs_nothing_that_is_encoded(
    job: EncodingJob, manifest: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MIN_TOKENS", 20)
    add = ActivationStore.add_beside

    def spoil(store: ActivationStore, file: ShardFile) -> None:
        add(store, file)
        path = store.folder / MANIFEST
        if manifest is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(manifest, encoding="utf-8")

    monkeypatch.setattr(ActivationStore, "add_beside", spoil)
    encode_in_parts([(job, store_of(job))], Observer())
    assert not len(found(job).missing)
    assert all("is damaged" in message for message in caplog.messages)


def test_what_is_lost_meanwhile_is_told(job: EncodingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(store: ActivationStore) -> None:
        for path in store.folder.glob("*.*"):
            path.unlink()

    monkeypatch.setattr(ActivationStore, "merge", remove)
    with pytest.raises(StorageError, match=r"lost 60 texts that had just been written to it: .* run the same command"):
        encode_in_parts([(job, store_of(job))], Observer())


def test_while_a_part_is_encoded_every_store_says_so(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    required = {"store": "require"}
    both = [prepare(make(pooling=pooling, training=required)) for pooling in (ClsConfig(), MeanConfig())]
    jobs = [prepared.encoding_job(prepared.plan.phases[0], CPU) for prepared in both]
    stores = [(job, store_of(job)) for job in jobs]
    said, encode = list[list[int]](), module._encode_part

    def look(*arguments: Any) -> int:
        said.append([len(list((store.folder / CLAIMS).iterdir())) for _, store in stores])
        return encode(*arguments)

    monkeypatch.setattr(module, "_encode_part", look)
    encode_in_parts([(jobs[0], stores[0][1]), (replace(jobs[1], prefix=jobs[1].prefix), stores[1][1])], Observer())
    assert said
    assert all(counts == [1, 1] for counts in said)


def test_a_shard_that_is_named_beside_the_manifest_is_not_merged_yet(job: EncodingJob) -> None:
    store = store_of(job)

    def shard_of(texts: range) -> ShardFile:
        shard = store.new_shard()
        values = torch.ones(len(texts), 1, 4)
        shard.append(job.digests.take(np.array(texts)), values.flatten(0, 1), torch.ones(len(texts), dtype=torch.int64))
        return shard

    with store.building(lambda: None):
        store.create()
        for first in (0, 5, 10):
            store.add(shard_of(range(first, first + 5)))
        store.add_beside(shard_of(range(20, 25)))
        store.merge()
        assert [shard.texts for shard in store.listed_shards()] == [15, 5]
    store.tidy()
    assert [shard.texts for shard in store.listed_shards()] == [20]
