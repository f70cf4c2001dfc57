"""Pairs, two texts apart, several sources and missing labels train to the same bits with the store and without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encoding_helpers import Counter, assert_same, read
from topwork.engine.preparation import prepare
from topwork.experiment.schema import Experiment, Task
from topwork.experiment.source import Source, Split
from topwork.interfaces.pooling import PoolingConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.regression import RegressionConfig
from topwork_plugins.heads.similarity import SimilarityConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

WORDS = ["a", "plane", "takes", "off", "slowly", "and", "lands", "again", "in", "rain"]


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 3 + number % 5))


@pytest.fixture
def many(make: Callable[..., Experiment], write: Callable[..., Path]) -> Callable[..., Experiment]:
    """Pairs that two heads read, one of which lacks labels, and single texts, some of which are halves of pairs."""
    pairs = [f"{sentence(n)},{sentence(n + 3)},{n % 7},{n % 5 if n % 3 else ''}" for n in range(24)]
    texts = [f"{sentence(n)},{'ab'[n % 2]}" for n in range(16)]
    split = Split(validation=0.25, test=0.25)
    data = {
        "pairs": Source(
            path=write("pairs.csv", "\n".join(["first,second,alike,joint", *pairs])),
            text=("first", "second"),
            split=split,
        ),
        "texts": Source(path=write("texts.csv", "\n".join(["text,kind", *texts])), split=split),
    }
    tasks = {
        "alike": Task(label="alike", source="pairs", head=SimilarityConfig(projection=4)),
        "joint": Task(label="joint", source="pairs", missing="skip", head=RegressionConfig(hidden=(4,))),
        "kind": Task(label="kind", source="texts", head=ClassificationConfig(hidden=(4,))),
    }

    def build(*, training: dict[str, Any], **parts: Any) -> Experiment:
        return make(data=data, tasks=tasks, backbone=MiniLmConfig(max_length=16), training=training, **parts)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()], ids=["cls", "mean"])
def test_training_gives_the_same_bits_with_the_store_and_without(
    many: Callable[..., Experiment], train: Callable[..., Any], pooling: PoolingConfig
) -> None:
    without, built, found = (
        train(many(pooling=pooling, training={"store": store})) for store in ("off", "require", "require")
    )
    assert [run.reports[0].where for run in (without, built, found)] == ["memory", "store", "store"]
    assert found.reports[0].encoded == 0
    assert_same(without, built)
    assert_same(without, found)


@pytest.mark.slow
def test_a_text_of_two_sources_and_of_pairs_is_encoded_once(many: Callable[..., Experiment]) -> None:
    prepared = prepare(many(training={"store": "off"}, pooling=MeanConfig()))
    counter = Counter()
    read(prepared, counter)
    size = prepared.plan.corpus_size
    assert counter.tokens == size.distinct_tokens < size.tokens
    singles = {sentence(n) for n in range(27)}
    pairs = {(sentence(n), sentence(n + 3)) for n in range(24) if n % 3}
    assert size.distinct_texts == len(singles) + len(pairs)


@pytest.mark.slow
def test_a_row_is_read_by_no_head_that_has_no_label_of_it(many: Callable[..., Experiment]) -> None:
    prepared = prepare(many(training={"store": "off"}, pooling=MeanConfig()))
    text_ids = prepared.corpus.text_ids["train"]
    assert (text_ids[:12, 0] >= 0).tolist() == [bool(number % 3) for number in range(12)]  # the joint sequence
    assert (text_ids[:12, 1:] >= 0).all()
    assert torch.equal(text_ids[12:, 1:], torch.full((8, 2), -1))
