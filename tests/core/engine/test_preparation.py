"""An experiment is resolved into rows, token ids, model and plan, or refused before anything is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from topwork.engine.encoding.store.cache_folder import cache_folder
from topwork.engine.evaluation.comparison import digests_of_texts
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.testing import TinyBackboneConfig

Make = Callable[..., Experiment]
CPU = torch.device("cpu")


def test_preparing_computes_and_stores_nothing(make: Make) -> None:
    prepared = prepare(make(training={"store": "require"}))
    assert prepared.corpus.size == prepared.plan.corpus_size
    assert not list(cache_folder().glob("activations/*"))
    assert all(parameter.grad is None for parameter in prepared.model.parameters())


def test_the_examples_of_every_split_have_its_rows_in_order(make: Make) -> None:
    prepared = prepare(make())
    examples, report = prepared.load_examples(prepared.plan.phases[0], CPU, Observer())
    assert {name: one.count for name, one in examples.items()} == {"train": 36, "validation": 12, "test": 12}
    assert report.texts == prepared.plan.corpus_size.distinct_texts
    for name, split in prepared.dataset.splits.items():
        assert examples[name].targets["category"].tolist() == split.targets["category"].tolist()
        alone = examples[name].batch(torch.tensor([3])).hidden
        ids = torch.tensor([prepared.model.backbone.tokenizer.encode(split.texts[3]).ids])
        assert torch.equal(
            alone, prepared.model.run_prefix(ids.expand(64, -1), torch.ones(64, ids.shape[1]).bool())[:1]
        )


def test_outputs_of_a_split_carry_what_is_needed_to_compare_them(make: Make) -> None:
    prepared = prepare(make())
    examples, _ = prepared.load_examples(prepared.plan.phases[0], CPU, Observer())
    outputs = prepared.split_outputs(
        "train", outputs_of(prepared.model, examples["train"], device=CPU), examples["train"]
    )
    assert outputs.split == "training"
    assert outputs.texts_sha256 == digests_of_texts(prepared.dataset.splits["train"])
    assert outputs.labels == prepared.dataset.labels
    assert torch.equal(outputs.targets["sentiment"], examples["train"].targets["sentiment"])


def test_truncated_texts_and_repeated_ones_are_warned_of(make: Make) -> None:
    warnings = prepare(make(backbone=TinyBackboneConfig(max_length=12))).warnings
    assert warnings[-1].endswith(" of 60 texts are longer than the backbone's max_length and were truncated")


@pytest.mark.parametrize("monitor", ["validation/nothing", "mean(validation/loss, validation/sentiment/accuracy)"])
def test_a_monitor_that_cannot_be_watched_is_told_with_its_place(make: Make, monitor: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^training\.monitor: "):
        prepare(make(training={"monitor": monitor}))


def test_a_setting_is_located_in_the_file_that_it_stands_in(write: Callable[..., Path], reviews_file: Path) -> None:
    from topwork.experiment.loading import load_experiment

    text: Any = f"""\
name: placed
data: {{r: {{path: {reviews_file}}}}}
backbone: {{kind: minilm}}
tasks: {{category: {{label: category}}}}
freeze: {{kind: all}}
training:
  monitor: validation/loss
"""
    experiment = load_experiment(write("placed.yaml", text)).model_copy(update={"backbone": TinyBackboneConfig()})
    with pytest.raises(ConfigurationError, match=r"placed\.yaml:7:3: training\.monitor: there is no metric"):
        prepare(experiment)
