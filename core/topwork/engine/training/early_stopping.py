"""Early stopping: which epoch is the best, and when to stop waiting for a better one."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Epoch
from topwork.errors import TrainingError
from topwork.experiment.objective import Objective, greater_is_better
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


class BestEpoch:
    """Watches an objective: which epoch is the best, and how many there were since.

    Args:
        objective: over the metrics of an epoch.
        directions: every metric that an epoch gives, and whether greater is better.
        patience: epochs without a better one after which it is over; None for never, and then the last is the best.
        where: the section of the experiment in which the objective is set.
    """

    def __init__(
        self, objective: Objective, directions: Mapping[str, bool], patience: int | None, *, where: str
    ) -> None:
        self.objective = objective
        self.patience = patience
        self.where = where
        self.sign = 1 if greater_is_better(objective, directions) else -1
        self.number = 0
        self.score = math.nan
        self.epochs_waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows of the epochs so far."""
        return {"number": self.number, "score": self.score, "epochs_waited": self.epochs_waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what another knew."""
        self.number, self.score, self.epochs_waited = state["number"], state["score"], state["epochs_waited"]

    def update(self, epoch: Epoch) -> bool:
        """Return whether an epoch is the best so far; the last is that without patience, or if none was a number."""
        score = self.sign * self.objective.evaluate(epoch.metrics)
        self.epochs_waited = 0 if not self.number or is_better(score, self.score) else self.epochs_waited + 1
        if self.epochs_waited and self.patience is not None and not math.isnan(self.score):
            return False
        self.number, self.score = epoch.number, score
        return True

    def is_over(self) -> bool:
        """Whether the objective has not improved for as many epochs as patience allows."""
        return self.patience is not None and self.epochs_waited >= self.patience

    def check_measured(self) -> None:
        """Check that there was a number to choose the best epoch by.

        Raises:
            TrainingError: it was NaN in every epoch; the last one's weights are kept.
        """
        if self.patience is not None and math.isnan(self.score):
            raise TrainingError(
                f"{self.where}.monitor {self.objective} was not a number in any of {self.number} epochs, so that none "
                "is the best; watch another metric, or set training.patience: null to train all epochs; the weights of "
                f"epoch {self.number} are kept",
                kept_epoch=self.number,
            )


class KeptState:
    """What training changes, as it was at some time."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept."""
        return self._tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Keep what another kept."""
        self._tensors = dict(state)

    def keep(self, changing: Iterable[tuple[str, Tensor]]) -> None:
        """Copy what there is now."""
        for name, tensor in changing:
            if name not in self._tensors:
                self._tensors[name] = torch.empty_like(tensor)
            self._tensors[name].copy_(tensor)

    def restore(self, changing: Iterable[tuple[str, Tensor]]) -> None:
        """Put back what was kept, if anything was."""
        for name, tensor in changing:
            if name in self._tensors:
                tensor.copy_(self._tensors[name])


class EarlyStopping:
    """Watches one objective for all tasks, and keeps what training changes as it was after the best epoch.

    Args:
        tasks: that are trained.
        trained: the names of the parameters that train in some phase.
        best: what watches the objective.
    """

    def __init__(self, tasks: Sequence[str], trained: Collection[str], best: BestEpoch) -> None:
        self.training = tuple(tasks)
        self._trained = trained
        self._best = best
        self._kept = KeptState()

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows of the epochs so far, with the weights that are kept."""
        return {"best": self._best.state_dict(), "kept": self._kept.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what another knew."""
        self._best.load_state_dict(state["best"])
        self._kept.load_state_dict(state["kept"])

    @property
    def best_epoch(self) -> int:
        """The best so far; 0 before the first."""
        return self._best.number

    @property
    def best_epochs(self) -> dict[str, int]:
        """The epoch whose weights each task's head has in the end."""
        return dict.fromkeys(self.training, self.best_epoch)

    def update(self, epoch: Epoch, model: MultiTaskModel) -> None:
        """Keep an epoch if it is the best so far."""
        if self._best.update(epoch):
            self._kept.keep(changing(model, self._trained))

    def should_stop(self) -> bool:
        """Whether the objective has not improved for as many epochs as patience allows."""
        return self._best.is_over()

    def check_measured(self) -> None:
        """Check that there was a number to choose the best epoch by.

        Raises:
            TrainingError: there was none.
        """
        self._best.check_measured()

    @torch.no_grad()
    def restore(self, model: MultiTaskModel) -> None:
        """Put the weights and buffers of the best epoch back, if there was one."""
        self._kept.restore(changing(model, self._trained))

    def drift(self, epochs: Sequence[Epoch], metrics: Mapping[str, float]) -> list[str]:
        """Say what metrics lost because heads and encoder are of several epochs: nothing, since all are of one."""
        return []


def changing(model: MultiTaskModel, trained: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes in any phase: weights, and buffers such as a norm's running mean."""
    for name, parameter in model.named_parameters():
        if name in trained:
            yield name, parameter.detach()
    yield from model.named_buffers()


def is_better(score: float, best: float) -> bool:
    """Whether a score is greater than the best so far, where anything is better than NaN."""
    return score > best or (math.isnan(best) and not math.isnan(score))
