"""A corpus is divided alike by every process, and stored to the same bits as by one that encodes it alone."""

from collections.abc import Callable

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
from topwork.engine.encoding.store.activation_store import ActivationStore
from topwork.engine.encoding.store.stored_activations import StoredActivations
from topwork.engine.encoding.store_decision import EncodingJob, decide_store
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.experiment.schema import Experiment

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
