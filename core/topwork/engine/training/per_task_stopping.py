"""Stopping task by task: each has a monitor of its own, and its head is kept from its own best epoch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.observer import Epoch
from topwork.engine.training.early_stopping import BestEpoch, KeptState, changing


class PerTaskStopping:
    """Watches an objective for each task.

    A task that has stopped takes no further part in training, and its head is put back to its best epoch at once. What
    tasks share is kept from the last epoch that was the best for some task.

    Args:
        trained: the names of the parameters that train in some phase.
        best: for each task, what watches its objective.
    """

    def __init__(self, trained: Collection[str], best: Mapping[str, BestEpoch]) -> None:
        self._trained = trained
        self._best = best
        self._stopped: set[str] = set()
        self._heads = {task: KeptState() for task in best}
        self._shared = KeptState()
        self.best_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows of the epochs so far, with the weights that are kept."""
        return {
            "best": {task: best.state_dict() for task, best in self._best.items()},
            "stopped": sorted(self._stopped),
            "heads": {task: kept.state_dict() for task, kept in self._heads.items()},
            "shared": self._shared.state_dict(),
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what another knew."""
        for task, best in self._best.items():
            best.load_state_dict(state["best"][task])
            self._heads[task].load_state_dict(state["heads"][task])
        self._stopped = set(state["stopped"])
        self._shared.load_state_dict(state["shared"])
        self.best_epoch = state["best_epoch"]

    @property
    def training(self) -> tuple[str, ...]:
        """The tasks that have not stopped."""
        return tuple(task for task in self._best if task not in self._stopped)

    @property
    def best_epochs(self) -> dict[str, int]:
        """The epoch whose weights each task's head has in the end."""
        return {task: best.number for task, best in self._best.items()}

    @torch.no_grad()
    def update(self, epoch: Epoch, model: MultiTaskModel) -> None:
        """Keep the head of each task of which an epoch is the best so far, and with it what tasks share."""
        improved = [task for task in self.training if self._best[task].update(epoch)]
        for task in improved:
            self._heads[task].keep(self._of_head(model, task))
        if improved:
            self.best_epoch = epoch.number
            self._shared.keep(self._of_shared(model))
        for task in self.training:
            if self._best[task].is_over():
                self._stopped.add(task)
                self._heads[task].restore(self._of_head(model, task))

    def should_stop(self) -> bool:
        """Whether all tasks have stopped."""
        return not self.training

    def check_measured(self) -> None:
        """Check that there was a number to choose each task's best epoch by.

        Raises:
            TrainingError: there was none for some task.
        """
        for best in self._best.values():
            best.check_measured()

    @torch.no_grad()
    def restore(self, model: MultiTaskModel) -> None:
        """Put back what tasks share, and each task's head from its own best epoch."""
        self._shared.restore(self._of_shared(model))
        for task, kept in self._heads.items():
            kept.restore(self._of_head(model, task))

    def drift(self, epochs: Sequence[Epoch], metrics: Mapping[str, float]) -> list[str]:
        """Say what metrics changed because a head is of another epoch than what tasks share.

        Args:
            metrics: of the model as it is in the end.
        """
        notes = []
        for task, best in self._best.items():
            for name in best.objective.metrics():
                then, now = epochs[best.number - 1].metrics.get(name), metrics.get(name)
                if then is not None and now is not None and abs(then - now) > 1e-6:
                    notes.append(
                        f"{name} was {then:.4f} in epoch {best.number}, the best of task {task}, and is {now:.4f} with "
                        f"what tasks share from epoch {self.best_epoch}"
                    )
        return notes

    def _of_shared(self, model: MultiTaskModel) -> Iterator[tuple[str, Tensor]]:
        return ((name, one) for name, one in changing(model, self._trained) if not name.startswith("heads."))

    def _of_head(self, model: MultiTaskModel, task: str) -> Iterator[tuple[str, Tensor]]:
        return ((name, one) for name, one in changing(model, self._trained) if name.startswith(f"heads.{task}."))
