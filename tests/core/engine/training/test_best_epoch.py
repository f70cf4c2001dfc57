"""A run of several phases ends with all weights as they were after its best epoch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phase_helpers import POOLINGS, AlternatingConfig, DescendingConfig, Watcher, different, weights_of, whole_forward
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.prefix import Cut
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.errors import TrainingError
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import Head, Metric
from topwork.interfaces.labels import Classes
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]

CPU = torch.device("cpu")


class ScriptedConfig(ClassificationConfig):
    """A head with a metric whose value after each epoch is known beforehand."""

    script: tuple[float, ...]

    def build(self, width: int, labels: Classes) -> Head:
        head, values = super().build(width, labels), iter(self.script)

        def scripted(outputs: Tensor, targets: Tensor) -> Tensor:
            return torch.tensor(next(values))

        return Head(head.module, head.loss, head.decode, [*head.metrics, Metric("scripted", scripted)])


def scripted(make: Make, script: tuple[float, ...], *, patience: int, **parts: Any) -> Experiment:
    """An experiment whose best epoch is that of the argmax_class number in ``script``."""
    tasks = {"category": Task(label="category", head=ScriptedConfig(hidden=(8,), script=script))}
    settings = {"epochs": 12, "patience": patience, "monitor": "validation/category/scripted"}
    return make(tasks=tasks, training=settings | parts.pop("training", {}), **parts)


def assert_data_fits_the_weights(trained: Any) -> None:
    """Check that the rows of the final weights are cut for them, against the whole forward pass and the figures."""
    for split in trained.data:
        outputs = outputs_of(trained.model, trained.data[split], device=CPU)
        torch.testing.assert_close(outputs["category"], whole_forward(trained, split)["category"], atol=1e-5, rtol=0)
    rows = trained.data["validation"]
    outputs = outputs_of(trained.model, rows, device=CPU)
    loss = float(trained.model.tasks["category"].loss(outputs["category"], rows.targets["category"]))
    assert loss == trained.fit.epochs[trained.fit.best_epoch - 1].metrics["validation/category/loss"]


@pytest.mark.slow
@POOLINGS
@pytest.mark.parametrize("store", ["off", "auto"])
@pytest.mark.parametrize("best", [1, 2, 3, 4, 5, 6])
def test_early_stopping_returns_to_an_earlier_phase_with_all_weights(
    make: Make, train: Train, pooling: Any, store: str, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    watcher, script = Watcher(), (*[0.5] * (best - 1), 0.9, *[0.1] * 12)
    parts = {"pooling": pooling, "freeze": GradualConfig(every=2), "training": {"store": store}}
    trained = train(scripted(make, script, patience=5, **parts), watcher)
    plan, phase = trained.prepared.plan, trained.prepared.plan.phase_of(best)
    assert trained.fit.best_epoch == best
    assert len(trained.fit.epochs) == best + 5
    assert plan.phase_of(best + 5).first == 5 >= phase.first
    weights = weights_of(trained.model)
    assert different(weights, watcher.weights[best - 1]) == set()
    assert any(name.startswith("backbone.layer.0") for name in different(weights, watcher.weights[-1]))
    assert trained.model.cut == phase.cut
    assert_data_fits_the_weights(trained)

    fresh = prepare(make(pooling=pooling, tasks=trained.prepared.experiment.tasks, training={"store": "off"}))
    fresh.model.load_state_dict(weights)
    fresh.model.set_trainable(phase.unfrozen)
    rows, _ = fresh.load_examples(phase, CPU, Observer())
    for split in trained.data:
        outputs = outputs_of(trained.model, trained.data[split], device=CPU)
        again = outputs_of(fresh.model, rows[split], device=CPU)
        assert all(torch.equal(outputs[task], again[task]) for task in outputs)


def test_weights_that_train_later_return_to_their_pretrained_values(make: Make, train: Train) -> None:
    experiment = scripted(make, (0.9, *[0.1] * 9), patience=6, freeze=GradualConfig())
    pretrained = weights_of(prepare(experiment).model)
    trained = train(experiment)
    assert len(trained.fit.epochs) == 7
    assert {name.split(".")[0] for name in different(weights_of(trained.model), pretrained)} == {"heads"}


@POOLINGS
@pytest.mark.parametrize("best", [1, 2, 3, 4])
@pytest.mark.parametrize("freeze", [AlternatingConfig(), DescendingConfig()], ids=["alternating", "descending"])
def test_early_stopping_returns_to_a_phase_whose_prefix_was_trained(
    make: Make,
    train: Train,
    pooling: Any,
    best: int,
    freeze: FreezeStrategyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    watcher, script = Watcher(), (*[0.5] * (best - 1), 0.9, *[0.1] * 12)
    trained = train(scripted(make, script, patience=3, pooling=pooling, freeze=freeze), watcher)
    assert trained.fit.best_epoch == best
    assert different(weights_of(trained.model), watcher.weights[best - 1]) == set()
    assert trained.model.cut == trained.prepared.plan.phase_of(best).cut
    assert_data_fits_the_weights(trained)


@pytest.mark.slow
def test_early_stopping_returns_to_an_earlier_phase_of_minilm(make: Make, train: Train) -> None:
    watcher = Watcher()
    backbone = MiniLmConfig(max_length=16)
    experiment = scripted(make, (0.5, 0.9, 0.1, 0.1, 0.1), patience=2, backbone=backbone, freeze=GradualConfig())
    trained = train(experiment, watcher)
    assert (trained.fit.best_epoch, len(trained.fit.epochs)) == (2, 4)
    assert different(weights_of(trained.model), watcher.weights[1]) == set()
    assert trained.model.cut == Cut(11, "tokens")
    assert_data_fits_the_weights(trained)


def test_divergence_in_a_later_phase_returns_to_an_earlier_one(make: Make, train: Train) -> None:
    watcher = Watcher()
    optimizer = HeadsAndBackboneConfig(heads_lr=1e-3, backbone_lr=1e30)
    with pytest.raises(TrainingError, match=r"diverged in epoch 3, .*the weights of epoch 2 are kept") as caught:
        train(make(freeze=GradualConfig(every=2), optimizer=optimizer, training={"epochs": 4}), watcher)
    assert caught.value.kept_epoch == 2
    assert different(weights_of(watcher.model), watcher.weights[1]) == set()
