"""When training stops: for all tasks at once, or task by task."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from topwork.engine.training.early_stopping import BestEpoch, EarlyStopping, metric_directions
from topwork.engine.training.per_task_stopping import PerTaskStopping
from topwork.errors import ConfigurationError
from topwork.experiment.objective import Objective, greater_is_better, parse_objective
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Task, Training
from topwork.interfaces.head import Head

Stopping = EarlyStopping | PerTaskStopping


@dataclass(frozen=True)
class Monitor:
    """What is watched, and how long.

    Attributes:
        objective: over the metrics of an epoch.
        patience: epochs without a better one after which it is over; None for never.
        where: the section of the experiment in which it is set.
    """

    objective: Objective
    patience: int | None
    where: str


def find_monitors(
    settings: Training,
    tasks: Mapping[str, Task],
    heads: Mapping[str, Head],
    validated: Collection[str],
    *,
    origin: Origin,
) -> dict[str | None, Monitor]:
    """Return the monitor of each task, or, for all tasks together, one by the name None.

    Args:
        tasks: all of the experiment.
        heads: of the tasks that are trained.
        validated: the tasks of which validation rows have labels.

    Raises:
        ConfigurationError: a metric that is watched will not exist, and names those that will; or some should rise and
            others fall, or none is left for the tasks that are trained.
    """
    if settings.stop == "per_task":
        monitors: dict[str | None, Monitor] = {
            task: _own_monitor(settings, tasks[task], task, heads[task], validated) for task in heads
        }
    else:
        monitors = {None: _common_monitor(settings, tasks.keys(), heads.keys(), origin=origin)}
    directions = metric_directions(heads, [task for task in validated if task in heads])
    for monitor in monitors.values():
        try:
            greater_is_better(monitor.objective, directions)
        except ValueError as error:
            message = str(error)
            if not validated and any(name.startswith("validation/") for name in monitor.objective.metrics()):
                message += "; there are no validation rows: set split.validation or a validation file"
            raise ConfigurationError(message).located(origin.locate(*monitor.where.split("."), "monitor")) from None
    return monitors


def _own_monitor(settings: Training, task: Task, name: str, head: Head, validated: Collection[str]) -> Monitor:
    """Return what is watched for one task: what it names, or else the head's first metric, or the training loss."""
    split = "validation" if name in validated else "training"
    metric = task.monitor or (head.metrics[0].name if head.metrics and name in validated else "loss")
    return Monitor(Objective(f"{split}/{name}/{metric}"), task.patience or settings.patience, f"tasks.{name}")


def _common_monitor(settings: Training, tasks: Collection[str], trained: Collection[str], *, origin: Origin) -> Monitor:
    """Return what is watched for all tasks together: of the objective the part that says something of those trained.

    Raises:
        ConfigurationError: nothing of it does.
    """
    others = tuple(f"{split}/{task}/" for split in ("training", "validation") for task in set(tasks) - set(trained))
    objective = parse_objective(settings.monitor).without(lambda name: name.startswith(others))
    if objective is None:
        raise ConfigurationError(
            f"{settings.monitor} says nothing of {', '.join(trained)}, which training.tasks trains alone; "
            "watch validation/loss, a mean over metrics of all tasks, or set training.stop: per_task"
        ).located(origin.locate("training", "monitor"))
    return Monitor(objective, settings.patience, "training")


def make_stopping(
    monitors: Mapping[str | None, Monitor],
    heads: Mapping[str, Head],
    validated: Collection[str],
    trained: Collection[str],
) -> Stopping:
    """Build what watches the monitors of a training.

    Args:
        heads: of the tasks that are trained.
        validated: the tasks of which validation rows have labels.
        trained: the names of the parameters that train in some phase.
    """
    directions = metric_directions(heads, [task for task in validated if task in heads])
    best = {
        task: BestEpoch(monitor.objective, directions, monitor.patience, where=monitor.where)
        for task, monitor in monitors.items()
    }
    if None in best:
        return EarlyStopping(list(heads), trained, best[None])
    return PerTaskStopping(trained, {task: one for task, one in best.items() if task is not None})
