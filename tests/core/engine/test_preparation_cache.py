"""The preparation cache gives what a fresh start gives, to the last bit, whatever was trained before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from encoding_helpers import CPU, Counter, assert_same
from topwork.engine import preparation_cache as module
from topwork.engine.model.plan import Phase
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.schema import Experiment
from topwork.testing import TinyBackboneConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]


class Cached:
    """Trains experiments through one cache, and notes where activations came from."""

    def __init__(self) -> None:
        self.cache = PreparationCache()
        self.reports: list[EncodingReport] = []

    def train(self, experiment: Experiment, observer: Observer | None = None) -> Any:
        prepared = self.cache.prepare(experiment)

        def load_examples(phase: Phase) -> Any:
            examples, report = self.cache.load_examples(prepared, phase, CPU, observer or Observer())
            self.reports.append(report)
            return examples

        accelerator = make_accelerator(experiment.training)
        outcome = prepared.fit(load_examples, accelerator=accelerator, observer=Observer())
        return type("Trained", (), {"model": prepared.model, "fit": outcome, "data": outcome.data})


CHANGES: dict[str, dict[str, Any]] = {
    "as it was": {},
    "rates": {"optimizer": HeadsAndBackboneConfig(heads_lr=3e-2, backbone_lr=1e-2)},
    "pooling": {"pooling": MeanConfig()},
    "seed": {"training": {"seed": 7}},
    "the whole backbone trains": {"freeze": NoneConfig()},
    "nothing but heads trains": {"freeze": AllConfig()},
    "unfrozen by epoch": {"freeze": GradualConfig(every=1), "training": {"epochs": 3}},
    "length": {"backbone": TinyBackboneConfig(max_length=12)},
}


@pytest.mark.slow
@pytest.mark.parametrize("store", ["require", "off"])
def test_whatever_was_trained_before_a_training_is_that_of_a_fresh_start(make: Make, train: Any, store: str) -> None:
    cached = Cached()
    for name in [*CHANGES, *reversed(CHANGES)]:
        changes = dict(CHANGES[name])
        needless = store == "require" and name in ("the whole backbone trains", "unfrozen by epoch")
        settings = {"store": "off" if needless else store, **changes.pop("training", {})}
        experiment = make(training=settings, **changes)
        assert_same(train(experiment), cached.train(experiment))


@pytest.mark.slow
def test_real_weights_come_back_after_each_training(on_minilm: Make, train: Any) -> None:
    cached = Cached()
    for seed in (0, 1, 0):
        experiment = on_minilm()
        experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update={"seed": seed})})
        assert_same(train(experiment), cached.train(experiment))
    backbones = {id(one.backbone) for one in cached.cache._backbones.values()}
    assert len(cached.cache._backbones) == 2
    assert len(backbones) == 1  # two seeds share the weights that were loaded


def test_a_backbone_whose_weights_depend_on_the_seed_is_held_for_each(make: Make) -> None:
    cached = Cached()
    for seed in (0, 1, 0):
        cached.train(make(training={"seed": seed}))
    assert len({id(one.backbone) for one in cached.cache._backbones.values()}) == 2


@pytest.mark.slow
def test_only_what_differs_is_done_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    everything = ["load_dataset", "build_backbone", "tokenize_splits", "load_examples"]
    owners = {"load_examples": module.Preparation} | dict.fromkeys(everything[:3], module)
    for name, owner in owners.items():
        real = getattr(owner, name)

        def note(*given: Any, real: Any = real, name: str = name, **named: Any) -> Any:
            done.append(name)
            return real(*given, **named)

        monkeypatch.setattr(owner, name, note)
    cached = Cached()
    expected = [
        ({}, everything),
        ({}, []),
        ({"optimizer": HeadsAndBackboneConfig(heads_lr=1e-3)}, []),
        ({"pooling": MeanConfig()}, ["load_examples"]),  # all tokens are kept now
        ({"backbone": TinyBackboneConfig(max_length=12)}, everything[1:]),
    ]
    for changes, work in expected:
        done.clear()
        cached.train(make(training={"store": "require"}, **changes))
        assert done == work


def test_examples_that_are_used_again_encode_nothing(make: Make) -> None:
    cached, counter = Cached(), Counter()
    for _ in range(2):
        cached.train(make(training={"store": "require"}), counter)
    first, second = cached.reports
    assert first.encoded == first.texts == second.texts
    assert second.encoded == 0
    assert counter.phases == [("encoding (tokens)", counter.tokens)]


def test_activations_in_memory_are_held_for_one_cut_only(make: Make) -> None:
    cached = Cached()
    for changes in ({}, {"freeze": AllConfig()}, {}):
        cached.train(make(**changes, training={"store": "off", "epochs": 1}))
        assert len(cached.cache._examples) == 1
    assert [report.encoded > 0 for report in cached.reports] == [True] * 3


@pytest.mark.slow
def test_the_same_rows_of_minilm_are_tokenized_once(on_minilm: Make) -> None:
    cache = PreparationCache()
    first = cache.prepare(on_minilm(pooling=MeanConfig()))
    second = cache.prepare(on_minilm())
    assert first.corpus is second.corpus
    assert first.dataset is second.dataset
    longer = cache.prepare(on_minilm(backbone=MiniLmConfig(max_length=20)))
    assert longer.dataset is first.dataset
    assert torch.equal(longer.corpus.sequences.lengths.clamp(max=16), first.corpus.sequences.lengths)
