"""What trains may change by epoch: the cut moves, the optimizer remembers, and the best epoch comes back whole."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from phase_helpers import (
    POOLINGS,
    POOLINGS_AND_LAYERS,
    STRATEGIES,
    AlternatingConfig,
    DescendingConfig,
    Watcher,
    different,
    weights_of,
    whole_forward,
)
from topwork.engine.encoding.corpus import tokenize
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.prefix import Cut
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.training import loop
from topwork.engine.training.optimizer import schedule_factor
from topwork.errors import StorageError
from topwork.experiment.schema import Experiment
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.testing import TinyBackboneConfig
from topwork.testing.tiny import TinyBackbone
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

CPU = torch.device("cpu")
TRAINED_PREFIX = "the prefix was trained in earlier epochs, so no other run could use it"


def assert_same(trained: Any, other: Any) -> None:
    """Check that two runs have the same figures, weights and final outputs, to the last bit."""
    assert [epoch.metrics for epoch in other.fit.epochs] == [epoch.metrics for epoch in trained.fit.epochs]
    assert different(weights_of(trained.model), weights_of(other.model)) == set()
    for split in trained.data:
        outputs = outputs_of(trained.model, trained.data[split], device=CPU)
        others = outputs_of(other.model, other.data[split], device=CPU)
        assert all(torch.equal(outputs[task], others[task]) for task in outputs)


@POOLINGS
def test_a_gradual_plan_moves_the_cut_left(make: Make, pooling: Any) -> None:
    plan = prepare(make(pooling=pooling, freeze=GradualConfig(every=2), training={"epochs": 7})).plan
    assert [(phase.first, phase.cut) for phase in plan.phases] == [
        (1, Cut(5, "pooled")),
        (3, Cut(3, "tokens")),
        (5, Cut(1, "tokens")),
    ]
    assert [phase.suffix[:1] for phase in plan.phases] == [(), ("layer.1.attention",), ("layer.0.attention",)]
    assert [plan.phase_of(epoch).first for epoch in range(1, 8)] == [1, 1, 3, 3, 5, 5, 5]
    assert all(phase.prefix_is_pretrained for phase in plan.phases)


@pytest.mark.slow
def test_a_gradual_plan_of_minilm_moves_the_cut_by_a_layer(make: Make) -> None:
    experiment = make(backbone=MiniLmConfig(max_length=16), freeze=GradualConfig(start=1), training={"epochs": 9})
    phases = prepare(experiment).plan.phases
    assert [phase.cut.stage for phase in phases] == [11, 9, 7, 5, 3, 1]
    assert [len(phase.unfrozen) for phase in phases] == [16, 32, 48, 64, 80, 96]
    assert [phase.cost.encode for phase in phases] == sorted((phase.cost.encode for phase in phases), reverse=True)
    assert phases[-1].cost.encode == 0


def test_a_plan_counts_everything_that_ever_trains(make: Make) -> None:
    plan = prepare(make(freeze=GradualConfig(), training={"epochs": 5})).plan
    names = {name for phase in plan.phases for group in phase.groups for name in group.parameters}
    assert plan.shapes.keys() == names
    embeddings = sum(p.numel() for name, p in prepare(make()).model.named_parameters() if "layer" not in name)
    heads = plan.size(plan.phases[0].groups[0])
    assert plan.frozen == embeddings - heads


def test_phases_after_the_last_epoch_are_not_planned(make: Make) -> None:
    assert len(prepare(make(freeze=GradualConfig(every=2), training={"epochs": 4})).plan.phases) == 2


@pytest.mark.parametrize(
    ("freeze", "prefix_is_pretrained"),
    [(AlternatingConfig(), [True, False, True, False]), (DescendingConfig(), [True, False])],
)
def test_a_prefix_that_was_trained_before_is_known(
    make: Make, freeze: FreezeStrategyConfig, prefix_is_pretrained: list[bool]
) -> None:
    plan = prepare(make(freeze=freeze, training={"epochs": 4})).plan
    assert [phase.prefix_is_pretrained for phase in plan.phases] == prefix_is_pretrained


@pytest.mark.slow
@POOLINGS
@STRATEGIES
def test_parameters_change_in_their_epochs_and_in_no_other(
    make: Make, train: Train, pooling: Any, freeze: FreezeStrategyConfig
) -> None:
    experiment = make(pooling=pooling, freeze=freeze, training={"epochs": 5})
    before, watcher = weights_of(prepare(experiment).model), Watcher()
    plan = train(experiment, watcher).prepared.plan
    assert len(plan.phases) > 1
    for number, after in enumerate(watcher.weights, 1):
        groups = plan.phase_of(number).groups
        assert different(before, after) == {name for group in groups for name in group.parameters}, f"epoch {number}"
        before = after


@pytest.mark.slow
def test_layers_of_minilm_are_unfrozen_when_they_should_and_not_before(make: Make, train: Train) -> None:
    experiment = make(backbone=MiniLmConfig(max_length=16), freeze=GradualConfig(), training={"epochs": 3})
    before, watcher = weights_of(prepare(experiment).model), Watcher()
    plan = train(experiment, watcher).prepared.plan
    assert [phase.cut.stage for phase in plan.phases] == [13, 11, 9]
    for number, after in enumerate(watcher.weights, 1):
        groups = plan.phase_of(number).groups
        assert different(before, after) == {name for group in groups for name in group.parameters}, f"epoch {number}"
        before = after


@POOLINGS_AND_LAYERS
@STRATEGIES
def test_activations_are_those_of_the_weights_left_of_the_cut(
    make: Make, train: Train, pooling: Any, freeze: FreezeStrategyConfig
) -> None:
    trained = train(make(pooling=pooling, freeze=freeze, training={"epochs": 4}))
    for split in trained.data:
        outputs = outputs_of(trained.model, trained.data[split], device=CPU)
        for task, expected in whole_forward(trained, split).items():
            torch.testing.assert_close(outputs[task], expected, atol=1e-5, rtol=0)


class StillConfig(TinyBackboneConfig):
    """The tiny backbone without dropout."""

    def build(self) -> Backbone:
        backbone = TinyBackbone(self.max_length)
        for module in backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return backbone


def plainly_trained(prepared: Preparation) -> dict[str, Tensor]:
    """Train by plain torch: the whole model in every step, one AdamW for all, no gradient where frozen."""
    model, experiment, settings = prepared.model, prepared.experiment, prepared.experiment.training
    part = prepared.dataset.splits["train"]
    ids = tokenize(model.backbone.tokenizer, part.texts).token_ids
    named = dict(model.named_parameters())
    rates = {name: 1e-3 if name.startswith("backbone.") else 1e-2 for name in named}
    optimizer = torch.optim.AdamW(
        [{"params": [named[name]], "lr": rate, "first": rate} for name, rate in rates.items()], weight_decay=0.01
    )
    steps = math.ceil(len(part.texts) / settings.batch_size)
    model.train()
    for epoch in range(1, settings.epochs + 1):
        unfrozen = experiment.freeze.trainable(model, epoch)
        for name, parameter in named.items():
            parameter.requires_grad_(name in unfrozen or not name.startswith("backbone."))
        batches = prepared.sampling.batches_of(epoch, settings)
        for step, rows in enumerate(batches):
            optimizer.zero_grad()
            padded, mask = ids.batch(rows)
            pooled = model.pooling(model.backbone(padded, mask), mask)
            losses = [
                model.tasks[task].loss(head(pooled), torch.from_numpy(part.targets[task])[rows])
                for task, head in model.heads.items()
            ]
            sum(losses).backward()
            if settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(named.values(), settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = group["first"] * schedule_factor(
                    settings, (epoch - 1) * steps + step, steps * settings.epochs
                )
            optimizer.step()
    return weights_of(model)


@pytest.mark.slow
@POOLINGS
@STRATEGIES
@pytest.mark.parametrize("settings", [{}, {"schedule": "linear"}, {"clip_norm": 0.2}], ids=str)
def test_training_in_phases_is_training_the_whole_model(
    make: Make, train: Train, pooling: Any, freeze: FreezeStrategyConfig, settings: dict[str, Any]
) -> None:
    experiment = make(backbone=StillConfig(), pooling=pooling, freeze=freeze, training={"epochs": 4} | settings)
    plain = plainly_trained(prepare(experiment))
    weights = weights_of(train(experiment).model)
    for name, expected in plain.items():
        part = [*range(16), *range(32, 48)] if name.endswith("in_proj_bias") else ...  # a key's bias has no gradient
        torch.testing.assert_close(weights[name][part], expected[part], atol=2e-5, rtol=0)


@pytest.mark.parametrize("freeze", [GradualConfig(), AlternatingConfig()], ids=["gradual", "alternating"])
def test_what_goes_on_training_keeps_its_moments(
    make: Make, train: Train, freeze: FreezeStrategyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_phase, moments, steps = loop.start_phase, [], []

    def starting(phase: Any, model: MultiTaskModel, weighting: Any, optimizer: Any) -> None:
        def state() -> dict[str, dict[str, Tensor]]:
            known = optimizer.state
            return {
                name: {key: value.clone() for key, value in known[parameter].items()}
                for name, parameter in model.named_parameters()
                if parameter in known
            }

        before = state()
        start_phase(phase, model, weighting, optimizer)
        moments.append((before, state()))
        steps.append({name: int(kept["step"]) for name, kept in before.items()})

    monkeypatch.setattr(loop, "start_phase", starting)
    train(make(freeze=freeze, training={"epochs": 4}))
    for before, after in moments:
        assert before.keys() <= after.keys()
        for name in before:
            assert all(torch.equal(before[name][key], after[name][key]) for key in ("exp_avg", "exp_avg_sq", "step"))
    assert [step["heads.category.0.weight"] for step in steps] == [5 * number for number in range(1, len(steps) + 1)]
    ffn = "backbone.layer.1.ffn.0.weight"
    expected = {GradualConfig: [None, 5], AlternatingConfig: [5, 5, 10]}[type(freeze)]
    assert [step.get(ffn) for step in steps] == expected


def test_a_phase_that_never_ends_trains_like_one_strategy(make: Make, train: Train) -> None:
    both = [train(make(freeze=GradualConfig(start=1, most=1))), train(make(freeze=GradualConfig(start=1, every=9)))]
    assert all(len(trained.reports) == 1 for trained in both)
    assert_same(*both)


@pytest.mark.slow
@POOLINGS_AND_LAYERS
@STRATEGIES
def test_phases_give_the_same_bits_wherever_activations_come_from(
    make: Make, train: Train, pooling: Any, freeze: FreezeStrategyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    off, auto = (make(pooling=pooling, freeze=freeze, training={"epochs": 4, "store": s}) for s in ("off", "auto"))
    kept, built, found = train(off), train(auto), train(auto)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    recomputed = train(off)
    for other in (built, found, recomputed):
        assert_same(kept, other)
    assert {report.where for report in kept.reports} == {"memory"}
    assert {report.where for report in recomputed.reports} == {"recomputed"}
    prefix_is_pretrained = [phase.prefix_is_pretrained for phase in built.prepared.plan.phases]
    if built.fit.best_epoch < 4:  # then another report for the final weights
        prefix_is_pretrained.append(built.prepared.plan.phase_of(built.fit.best_epoch).prefix_is_pretrained)
    for trained in (built, found):
        assert [report.where == "store" for report in trained.reports] == prefix_is_pretrained
        assert {report.note for report in trained.reports if report.where != "store"} <= {TRAINED_PREFIX}
    assert all(report.found == 60 for report in found.reports if report.where == "store")


@pytest.mark.slow
@POOLINGS
def test_gradual_training_of_minilm_is_the_same_with_and_without_the_store(
    make: Make, train: Train, pooling: Any, tmp_path: Path
) -> None:
    off, require = (
        make(
            backbone=MiniLmConfig(max_length=16),
            pooling=pooling,
            freeze=GradualConfig(),
            training={"epochs": 3, "store": store},
        )
        for store in ("off", "require")
    )
    kept, built, found = train(off), train(require), train(require)
    assert_same(kept, built)
    assert_same(kept, found)
    assert [report.found for report in built.reports] == [0, 60, 60]  # the first pass keeps what the others need
    assert [report.found for report in found.reports] == [60, 60, 60]
    assert len(list_entries(cache_folder())) == 3


@pytest.mark.reliability("B32")
def test_what_was_trained_is_never_written_to_the_store(
    make: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    trained = train(make(freeze=AlternatingConfig(), training={"epochs": 4}))
    stored = {report.note for report in trained.reports if report.where == "store"}
    assert {entry.key for entry in list_entries(cache_folder())} == stored
    assert len(stored) == 1  # both odd epochs have the same prefix
    assert [report.where for report in trained.reports] == ["store", "memory", "store", "memory"]
    assert [report.found for report in trained.reports] == [0, 0, 60, 0]


@pytest.mark.parametrize("store", ["auto", "require"])
@pytest.mark.reliability("B32")
def test_the_store_does_not_serve_what_was_trained(make: Make, train: Train, store: str) -> None:
    prepared = prepare(make(freeze=AlternatingConfig(), training={"epochs": 2, "store": store}))
    phase = prepared.plan.phases[1]
    prepared.model.set_trainable(phase.unfrozen)
    if store == "auto":
        assert prepared.decide_store(phase, CPU).reason == TRAINED_PREFIX
    else:
        with pytest.raises(StorageError) as caught:
            prepared.decide_store(phase, CPU)
        assert str(caught.value).endswith(f"training.store: require, but {TRAINED_PREFIX}")


def test_gradients_are_compared_only_while_something_that_tasks_share_trains(make: Make, train: Train) -> None:
    trained = train(make(freeze=GradualConfig(), training={"epochs": 2, "gradient_batches": 2}))
    found = [any(name.startswith("gradient_norm/") for name in epoch.metrics) for epoch in trained.fit.epochs]
    assert found == [False, True]
