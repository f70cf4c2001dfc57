"""The workbench gives what a fresh start gives, to the last bit, whatever was trained before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reading_helpers import CPU, Counter, assert_same
from topwork.engine import workbench as module
from topwork.engine.observer import Observer, Reading
from topwork.engine.plan import Phase
from topwork.engine.training import fit, make_accelerator
from topwork.engine.workbench import Workbench
from topwork.experiment.schema import Experiment
from topwork.testing import TinyBackboneConfig
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]


class At:
    """Trains experiments at one workbench, and notes how rows were come by."""

    def __init__(self) -> None:
        self.bench = Workbench()
        self.readings: list[Reading] = []

    def train(self, experiment: Experiment, observer: Observer | None = None) -> Any:
        prepared = self.bench.prepare(experiment)

        def read(phase: Phase) -> Any:
            rows, reading = self.bench.read(prepared, phase, device=CPU, observer=observer or Observer())
            self.readings.append(reading)
            return rows

        accelerator = make_accelerator(experiment.training)
        outcome = fit(prepared.model, prepared.plan, read, experiment, accelerator=accelerator, observer=Observer())
        return type("Trained", (), {"model": prepared.model, "fit": outcome, "data": outcome.data})


CHANGES: dict[str, dict[str, Any]] = {
    "as it was": {},
    "rates": {"optimizer": HeadsAndBackboneConfig(heads_lr=3e-2, backbone_lr=1e-2)},
    "pooling": {"pooling": MeanConfig()},
    "seed": {"training": {"seed": 7}},
    "the whole backbone trains": {"freeze": NoneConfig()},
    "nothing but heads trains": {"freeze": AllConfig()},
    "thawed by epoch": {"freeze": GradualConfig(every=1), "training": {"epochs": 3}},
    "length": {"backbone": TinyBackboneConfig(max_length=12)},
}


@pytest.mark.parametrize("store", ["require", "off"])
def test_whatever_was_trained_before_a_training_is_that_of_a_fresh_start(make: Make, train: Any, store: str) -> None:
    at = At()
    for name in [*CHANGES, *reversed(CHANGES)]:
        changes = dict(CHANGES[name])
        needless = store == "require" and name in ("the whole backbone trains", "thawed by epoch")
        settings = {"store": "off" if needless else store, **changes.pop("training", {})}
        experiment = make(training=settings, **changes)
        assert_same(train(experiment), at.train(experiment))


def test_real_weights_come_back_after_each_training(on_minilm: Make, train: Any) -> None:
    at = At()
    for seed in (0, 1, 0):
        experiment = on_minilm()
        experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update={"seed": seed})})
        assert_same(train(experiment), at.train(experiment))
    backbones = {id(lent.backbone) for lent in at.bench._backbones.values()}
    assert len(at.bench._backbones) == 2
    assert len(backbones) == 1  # two seeds share the weights that were loaded


def test_a_backbone_whose_weights_depend_on_the_seed_is_held_for_each(make: Make) -> None:
    at = At()
    for seed in (0, 1, 0):
        at.train(make(training={"seed": seed}))
    assert len({id(lent.backbone) for lent in at.bench._backbones.values()}) == 2


def test_only_what_differs_is_done_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("load_dataset", "build_backbone", "tokenize_all", "read_rows"):
        real = getattr(module, name)

        def note(*given: Any, real: Any = real, name: str = name, **named: Any) -> Any:
            done.append(name)
            return real(*given, **named)

        monkeypatch.setattr(module, name, note)
    at = At()
    everything = ["load_dataset", "build_backbone", "tokenize_all", "read_rows"]
    expected = [
        ({}, everything),
        ({}, []),
        ({"optimizer": HeadsAndBackboneConfig(heads_lr=1e-3)}, []),
        ({"pooling": MeanConfig()}, ["read_rows"]),  # all tokens are kept now
        ({"backbone": TinyBackboneConfig(max_length=12)}, everything[1:]),
    ]
    for changes, work in expected:
        done.clear()
        at.train(make(training={"store": "require"}, **changes))
        assert done == work


def test_a_reading_that_is_used_again_encodes_nothing(make: Make) -> None:
    at, counter = At(), Counter()
    for _ in range(2):
        at.train(make(training={"store": "require"}), counter)
    first, second = at.readings
    assert first.encoded == first.texts == second.texts
    assert second.encoded == 0
    assert counter.phases == [("encoding (tokens)", counter.tokens)]


def test_activations_in_memory_are_held_for_one_cut_only(make: Make) -> None:
    at = At()
    for changes in ({}, {"freeze": AllConfig()}, {}):
        at.train(make(**changes, training={"store": "off", "epochs": 1}))
        assert len(at.bench._read) == 1
    assert [reading.encoded > 0 for reading in at.readings] == [True] * 3


def test_the_same_rows_of_minilm_are_tokenized_once(on_minilm: Make) -> None:
    bench = Workbench()
    first = bench.prepare(on_minilm(pooling=MeanConfig()))
    second = bench.prepare(on_minilm())
    assert first.corpus is second.corpus
    assert first.dataset is second.dataset
    longer = bench.prepare(on_minilm(backbone=MiniLmConfig(max_length=20)))
    assert longer.dataset is first.dataset
    assert torch.equal(longer.corpus.token_ids.lengths.clamp(max=16), first.corpus.token_ids.lengths)
