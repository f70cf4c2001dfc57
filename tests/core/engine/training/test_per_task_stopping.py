"""Each task stops by its own monitor, and keeps its head from its own best epoch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phase_helpers import Watcher
from topwork.experiment.schema import Experiment, Task
from topwork.interfaces.head import Head, Metric
from topwork.interfaces.labels import Classes
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig

Make = Callable[..., Experiment]
Train = Callable[..., Any]


class ScriptedConfig(ClassificationConfig):
    """A head with a metric whose value after each epoch is known beforehand."""

    script: tuple[float, ...]

    def build(self, width: int, labels: Classes) -> Head:
        head, values = super().build(width, labels), iter(self.script)

        def scripted(outputs: Tensor, targets: Tensor) -> Tensor:
            return torch.tensor(next(values, 0.0))

        return Head(head.module, head.loss, head.decode, [Metric("scripted", scripted), *head.metrics])


def scripted(make: Make, best: dict[str, int], *, patience: int = 2, **parts: Any) -> Experiment:
    """An experiment whose tasks have their best epochs where ``best`` says."""
    rising = [number / 100 for number in range(12)]
    tasks = {
        task: Task(label=task, head=ScriptedConfig(hidden=(8,), script=(*rising[: epoch - 1], 0.9, *[0.1] * 12)))
        for task, epoch in best.items()
    }
    settings = {"epochs": 12, "patience": patience, "stop": "per_task"}
    return make(tasks=tasks, training=settings | parts.pop("training", {}), **parts)


def of_head(weights: dict[str, Tensor], task: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith(f"heads.{task}.")}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def test_each_head_is_of_its_own_best_epoch_and_the_run_ends_with_the_last(make: Make, train: Train) -> None:
    watcher = Watcher()
    trained = train(scripted(make, {"sentiment": 2, "category": 5}), watcher)
    assert trained.fit.best_epochs == {"sentiment": 2, "category": 5}
    assert trained.fit.best_epoch == 5
    assert len(trained.fit.epochs) == 7
    weights = {name: one.detach() for name, one in trained.model.named_parameters()}
    for task, epoch in trained.fit.best_epochs.items():
        assert same(of_head(weights, task), of_head(watcher.weights[epoch - 1], task))
    shared = {name: one for name, one in weights.items() if not name.startswith("heads.")}
    assert same(shared, {name: watcher.weights[4][name] for name in shared})


def test_a_task_that_has_stopped_is_put_back_and_trained_no_further(make: Make, train: Train) -> None:
    watcher = Watcher()
    trained = train(scripted(make, {"sentiment": 1, "category": 6}), watcher)
    first = of_head(watcher.weights[0], "sentiment")
    assert not same(of_head(watcher.weights[2], "sentiment"), first)  # epoch 3, after which it stops
    assert all(same(of_head(weights, "sentiment"), first) for weights in watcher.weights[3:])
    assert ["training/sentiment/loss" in epoch.metrics for epoch in trained.fit.epochs] == [True] * 3 + [False] * 5
    assert ["training/loss" in epoch.metrics for epoch in trained.fit.epochs] == [True] * 3 + [False] * 5
    assert all("validation/sentiment/accuracy" in epoch.metrics for epoch in trained.fit.epochs)


def test_with_a_frozen_backbone_each_task_ends_as_if_it_alone_had_decided(make: Make, train: Train) -> None:
    best = {"sentiment": 2, "category": 5}
    together = train(scripted(make, best, freeze=AllConfig()))
    for task in best:
        parts = {"monitor": f"validation/{task}/scripted", "stop": "together"}
        alone = train(scripted(make, best, freeze=AllConfig(), training=parts))
        assert same(
            of_head(dict(together.model.named_parameters()), task), of_head(dict(alone.model.named_parameters()), task)
        )


def test_with_a_frozen_backbone_nothing_is_lost(make: Make, train: Train) -> None:
    fitted = train(early_and_late(make, freeze=AllConfig())).fit
    assert fitted.best_epochs["sentiment"] < fitted.best_epochs["category"]
    assert fitted.notes == []
    for task, epoch in fitted.best_epochs.items():
        name = f"validation/{task}/loss"
        assert fitted.metrics[name] == fitted.epochs[epoch - 1].metrics[name]


def early_and_late(make: Make, **parts: Any) -> Experiment:
    """An experiment of which one task is at its best long before the other."""
    tasks = make().tasks
    tasks = {
        "sentiment": Task(label="sentiment", head=BinaryConfig(hidden=()), monitor="loss", patience=1),
        "category": tasks["category"].model_copy(update={"monitor": "loss", "patience": 20}),
    }
    optimizer = HeadsAndBackboneConfig(heads_lr=0.02, backbone_lr=0.01)
    return make(tasks=tasks, training={"epochs": 12, "stop": "per_task"}, optimizer=optimizer, **parts)


def test_what_a_head_loses_by_later_shared_weights_is_said(make: Make, train: Train) -> None:
    fitted = train(early_and_late(make)).fit
    early, late = fitted.best_epochs["sentiment"], fitted.best_epoch
    assert early < late
    before = fitted.epochs[early - 1].metrics["validation/sentiment/loss"]
    after = fitted.metrics["validation/sentiment/loss"]
    assert fitted.notes == [
        f"validation/sentiment/loss was {before:.4f} in epoch {early}, the best of task sentiment, and is {after:.4f} "
        f"with what tasks share from epoch {late}"
    ]


def test_without_patience_all_heads_are_of_the_last_epoch(make: Make, train: Train) -> None:
    trained = train(make(training={"epochs": 3, "patience": None, "stop": "per_task"}))
    assert trained.fit.best_epochs == {"sentiment": 3, "category": 3}


@pytest.mark.parametrize("task", ["sentiment", "category"])
def test_a_task_alone_is_trained_as_in_a_run_of_its_own(make: Make, train: Train, task: str) -> None:
    """Where all labels of a task are in rows of their own, or all tasks have the same rows."""
    alone = train(make(training={"tasks": (task,), "epochs": 3}))
    own = train(make(tasks={task: make().tasks[task]}, training={"epochs": 3}))
    assert list(alone.model.tasks) == [task]
    assert same(dict(alone.model.named_parameters()), dict(own.model.named_parameters()))
    assert alone.fit.epochs[-1].metrics == own.fit.epochs[-1].metrics
