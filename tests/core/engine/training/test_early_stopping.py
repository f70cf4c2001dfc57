"""What the monitor keeps of the best epoch, and what it makes of a metric that is not a number."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits
from topwork.engine.observer import Epoch, Observer
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError, TrainingError
from topwork.experiment.schema import Experiment, Task
from topwork.experiment.source import Source, Split
from topwork.interfaces.head import Head, HeadConfig, Metric
from topwork.interfaces.labels import Classes

Make = Callable[..., Experiment]
Train = Callable[..., Any]


class NormedConfig(HeadConfig):
    """A head with a batch norm, whose running mean is a buffer."""

    kind: Literal["normed"] = "normed"

    def build(self, width: int, labels: Classes) -> Head:
        module = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 2))
        return Head(module, nn.functional.cross_entropy, decode_logits(labels), class_metrics(2))


class LateConfig(HeadConfig):
    """A head whose metric is not a number at first, then falls."""

    kind: Literal["late"] = "late"

    def build(self, width: int, labels: Classes) -> Head:
        values = iter([math.nan, 0.2, 0.9, 0.5])

        def late(outputs: Tensor, targets: Tensor) -> Tensor:
            return torch.tensor(next(values))

        linear = nn.Linear(width, 2)
        return Head(linear, nn.functional.cross_entropy, decode_logits(labels), [Metric("late", late)])


class Watcher(Observer):
    """Copies the whole state after each epoch."""

    model: Any = None

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def epoch(self, epoch: Epoch) -> None:
        self.states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})


def test_buffers_return_to_the_best_epoch_with_the_weights(make: Make, train: Train) -> None:
    watcher = Watcher()
    tasks = {"sentiment": Task(label="sentiment", head=NormedConfig())}
    trained = train(make(tasks=tasks, training={"epochs": 40, "patience": 2, "monitor": "validation/loss"}), watcher)
    best = trained.fit.best_epoch
    assert best < len(trained.fit.epochs)
    state = trained.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in watcher.states[best - 1].items())
    assert not torch.equal(
        state["heads.sentiment.0.running_mean"], watcher.states[-1]["heads.sentiment.0.running_mean"]
    )


def test_a_metric_that_is_not_a_number_is_worse_than_any_number(make: Make, train: Train) -> None:
    tasks = {"sentiment": Task(label="sentiment", head=LateConfig())}
    trained = train(make(tasks=tasks, training={"epochs": 4, "patience": 4, "monitor": "validation/sentiment/late"}))
    assert trained.fit.best_epoch == 3


@pytest.mark.parametrize("function", [min, max])
def test_several_metrics_can_be_watched_at_once(make: Make, train: Train, function: Callable[..., float]) -> None:
    names = [f"validation/{task}/loss" for task in ("sentiment", "category")]
    monitor = f"{function.__name__}({', '.join(names)})"
    trained = train(make(training={"epochs": 12, "patience": 12, "monitor": monitor}))
    values = [function(epoch.metrics[name] for name in names) for epoch in trained.fit.epochs]
    assert trained.fit.best_epoch == values.index(min(values)) + 1


def test_metrics_of_which_one_rises_and_one_falls_cannot_be_watched_together(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(training={"monitor": "mean(validation/sentiment/accuracy, validation/category/loss)"}))
    assert str(caught.value) == (
        "training.monitor: the metrics of one objective must all rise or all fall, but in "
        "mean(validation/sentiment/accuracy, validation/category/loss) validation/sentiment/accuracy should rise "
        "and validation/category/loss should fall"
    )


def test_every_metric_of_a_monitor_must_exist(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(training={"monitor": "min(validation/mood/loss, validation/sentiment/los)"}))
    first, second = str(caught.value).splitlines()
    assert first.startswith("training.monitor: there is no metric 'validation/mood/loss', only training/loss, ")
    assert second.endswith("; did you mean validation/sentiment/loss?")


@pytest.mark.parametrize(
    ("monitor", "hint"),
    [
        ("validation/los", "; did you mean validation/loss?"),
        ("validation/sentiment/acuracy", "; did you mean validation/sentiment/accuracy?"),
        ("test/sentiment/accuracy", "; did you mean validation/sentiment/accuracy?"),
        ("f1", ", validation/category/matthews"),
    ],
)
def test_a_monitor_that_does_not_exist_is_refused_before_anything_is_encoded(
    make: Make, monitor: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(training={"monitor": monitor}))
    assert str(caught.value).startswith(
        f"training.monitor: there is no metric {monitor!r}, only training/loss, training/sentiment/loss, "
    )
    assert str(caught.value).endswith(hint)


def test_validation_metrics_are_not_offered_without_validation_rows(make: Make) -> None:
    experiment = make(training={"monitor": "validation/sentiment/accuracy"})
    ((name, source),) = experiment.data.items()
    without = {name: Source(path=source.path, split=Split(test=0.2))}
    with pytest.raises(ConfigurationError) as caught:
        prepare(experiment.model_copy(update={"data": without}))
    assert str(caught.value) == (
        "training.monitor: there is no metric 'validation/sentiment/accuracy', only training/loss, "
        "training/sentiment/loss, training/category/loss; there are no validation rows: "
        "set split.validation or a validation file"
    )


class UndefinedConfig(HeadConfig):
    """A head whose metric never is a number."""

    kind: Literal["undefined"] = "undefined"

    def build(self, width: int, labels: Classes) -> Head:
        metric = Metric("undefined", lambda outputs, targets: torch.tensor(math.nan))
        return Head(nn.Linear(width, 2), nn.functional.cross_entropy, decode_logits(labels), [metric])


def test_a_monitor_that_never_is_a_number_ends_training_and_keeps_the_last_weights(make: Make, train: Train) -> None:
    tasks = {"sentiment": Task(label="sentiment", head=UndefinedConfig())}
    settings = {"epochs": 9, "patience": 2, "monitor": "validation/sentiment/undefined"}
    with pytest.raises(
        TrainingError, match=r"not a number in any of 3 epochs, .*weights of epoch 3 are kept"
    ) as caught:
        train(make(tasks=tasks, training=settings))
    assert caught.value.kept_epoch == 3
