"""Early stopping: which epoch is the best, and when to stop waiting for a better one."""

import math
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Epoch
from topwork.errors import ConfigurationError, TrainingError
from topwork.experiment.objective import greater_is_better, parse_objective
from topwork.interfaces.head import Head


def metric_directions(tasks: Mapping[str, Head], validated: Collection[str]) -> dict[str, bool]:
    """Every metric that an epoch gives, and whether greater is better.

    Args:
        validated: the tasks of which validation rows have labels.
    """
    directions = {f"training/{name}": False for name in ("loss", *(f"{task}/loss" for task in tasks))}
    measured = {task: head for task, head in tasks.items() if task in validated}
    if measured:
        directions |= {f"validation/{name}": False for name in ("loss", *(f"{task}/loss" for task in measured))}
    for task, head in measured.items():
        directions |= {f"validation/{task}/{metric.name}": metric.greater_is_better for metric in head.metrics}
    return directions


def check_monitor(monitor: str, tasks: Mapping[str, Head], validated: Collection[str]) -> None:
    """Check that the monitored metrics will exist and that it is known which way is better.

    Args:
        validated: the tasks of which validation rows have labels.

    Raises:
        ConfigurationError: one will not, and names those that will; or some should rise and others fall.
    """
    objective = parse_objective(monitor)
    try:
        greater_is_better(objective, metric_directions(tasks, validated))
    except ValueError as error:
        message = str(error)
        if not validated and any(name.startswith("validation/") for name in objective.metrics()):
            message += "; there are no validation rows: set split.validation or a validation file"
        raise ConfigurationError(message) from None


class EarlyStopping:
    """Watches an objective and keeps what training changes as it was after the best epoch.

    Args:
        trained: the names of the parameters that train in some phase.
        monitor: the objective.
        directions: every metric that an epoch gives, and whether greater is better.
        patience: epochs without a better one after which to stop; None for never, and then the last counts as the best.
    """

    def __init__(
        self, trained: Collection[str], monitor: str, directions: Mapping[str, bool], patience: int | None
    ) -> None:
        self.trained = trained
        self.objective = parse_objective(monitor)
        self.patience = patience
        self.sign = 1 if greater_is_better(self.objective, directions) else -1
        self.best_epoch = 0
        self.best_score = math.nan
        self.epochs_waited = 0
        self.best_state: dict[str, Tensor] = {}

    def update(self, epoch: Epoch, model: MultiTaskModel) -> None:
        """Keep an epoch if it is the best so far; the last counts as that without patience, or if none was a number."""
        score = self.sign * self.objective.evaluate(epoch.metrics)
        self.epochs_waited = 0 if not self.best_epoch or is_better(score, self.best_score) else self.epochs_waited + 1
        if not self.epochs_waited or self.patience is None or math.isnan(self.best_score):
            self.best_epoch, self.best_score = epoch.number, score
            if not self.best_state:
                self.best_state = {name: torch.empty_like(tensor) for name, tensor in self._changing(model)}
            for name, tensor in self._changing(model):
                self.best_state[name].copy_(tensor)

    def should_stop(self) -> bool:
        """Whether the metric has not improved for as many epochs as patience allows."""
        return self.patience is not None and self.epochs_waited >= self.patience

    def check_measured(self) -> None:
        """Check that there was a number to choose the best epoch by.

        Raises:
            TrainingError: it was NaN in every epoch; the last one's weights are kept.
        """
        if self.patience is not None and math.isnan(self.best_score):
            raise TrainingError(
                f"training.monitor {self.objective} was not a number in any of {self.best_epoch} epochs, so that none "
                "is the best; watch another metric, or set training.patience: null to train all epochs; the weights of "
                f"epoch {self.best_epoch} are kept",
                kept_epoch=self.best_epoch,
            )

    @torch.no_grad()
    def restore(self, model: MultiTaskModel) -> None:
        """Put the weights and buffers of the best epoch back, if there was one."""
        if self.best_state:
            for name, tensor in self._changing(model):
                tensor.copy_(self.best_state[name])

    def _changing(self, model: MultiTaskModel) -> Iterator[tuple[str, Tensor]]:
        """Yield what training changes in any phase: weights, and buffers such as a norm's running mean."""
        for name, parameter in model.named_parameters():
            if name in self.trained:
                yield name, parameter.detach()
        yield from model.named_buffers()


def is_better(score: float, best: float) -> bool:
    """Whether a score is greater than the best so far, where anything is better than NaN."""
    return score > best or (math.isnan(best) and not math.isnan(score))
