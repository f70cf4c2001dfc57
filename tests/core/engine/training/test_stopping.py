"""What is watched: one objective for all tasks, or one for each."""

from collections.abc import Callable
from typing import Any

import pytest

from topwork.engine.preparation import prepare
from topwork.engine.training.early_stopping import EarlyStopping
from topwork.engine.training.per_task_stopping import PerTaskStopping
from topwork.engine.training.stopping import make_stopping
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.experiment.source import Source, Split

Make = Callable[..., Experiment]


def monitors_of(experiment: Experiment) -> dict[str | None, tuple[str, int | None]]:
    found = prepare(experiment).monitors
    return {task: (str(monitor.objective), monitor.patience) for task, monitor in found.items()}


def with_monitor(make: Make, **settings: Any) -> Experiment:
    tasks = make().tasks
    return make(
        tasks=tasks | {"category": tasks["category"].model_copy(update=settings)},
        training={"stop": "per_task", "patience": 3},
    )


def test_all_tasks_together_are_watched_by_one_monitor(make: Make) -> None:
    experiment = make(training={"monitor": "validation/loss", "patience": 4})
    assert monitors_of(experiment) == {None: ("validation/loss", 4)}
    ready = prepare(experiment)
    stopping = make_stopping(ready.monitors, ready.model.tasks, ["sentiment", "category"], [])
    assert isinstance(stopping, EarlyStopping)
    assert stopping.training == ("sentiment", "category")


def test_each_task_is_watched_by_its_own_monitor_or_its_first_metric(make: Make) -> None:
    experiment = with_monitor(make, monitor="macro_f1", patience=7)
    assert monitors_of(experiment) == {
        "sentiment": ("validation/sentiment/accuracy", 3),
        "category": ("validation/category/macro_f1", 7),
    }
    ready = prepare(experiment)
    assert isinstance(make_stopping(ready.monitors, ready.model.tasks, ["sentiment", "category"], []), PerTaskStopping)


def test_a_task_without_validation_rows_is_watched_by_its_training_loss(make: Make) -> None:
    data = {"reviews": Source(path=make().data["reviews"].path, split=Split(test=0.2))}
    experiment = make(data=data, training={"stop": "per_task", "patience": 3})
    assert monitors_of(experiment) == {
        "sentiment": ("training/sentiment/loss", 3),
        "category": ("training/category/loss", 3),
    }


def test_a_metric_that_a_task_does_not_have_is_refused_with_those_it_has(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prepare(with_monitor(make, monitor="accurracy"))
    assert str(caught.value).startswith("tasks.category.monitor: there is no metric 'validation/category/accurracy'")
    assert "did you mean" in str(caught.value)


def test_of_an_objective_over_all_tasks_the_part_of_those_that_train_is_watched(make: Make) -> None:
    both = "mean(validation/sentiment/accuracy, validation/category/accuracy)"
    experiment = make(training={"tasks": ("category",), "monitor": both, "patience": 2})
    assert monitors_of(experiment) == {None: ("mean(validation/category/accuracy)", 2)}


def test_an_objective_that_says_nothing_of_the_tasks_that_train_is_refused(make: Make) -> None:
    settings = {"tasks": ("category",), "monitor": "validation/sentiment/accuracy", "patience": 2}
    with pytest.raises(ConfigurationError) as caught:
        prepare(make(training=settings))
    assert str(caught.value) == (
        "training.monitor: validation/sentiment/accuracy says nothing of category, which training.tasks trains alone; "
        "watch validation/loss, a mean over metrics of all tasks, or set training.stop: per_task"
    )
