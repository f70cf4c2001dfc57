"""All that the next step of a training depends on, beside its settings and what is frozen."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from topwork.engine.data_parallel import Processes
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import WEIGHTING_GROUP
from topwork.engine.observer import Epoch
from topwork.engine.training.early_stopping import changing
from topwork.engine.training.partial_epoch import PartialEpoch
from topwork.engine.training.step import Weighting
from topwork.engine.training.stopping import Stopping
from topwork.errors import StorageError, enumerate_names


class TrainingState:
    """How far a training has come, and all that changes on the way.

    What is not here follows from the settings: batches, the schedule, and which layers train are functions of seed,
    epoch and step; so are random numbers where an epoch begins.

    Args:
        trained: the names of the parameters that train in some phase.
        processes: that train together; this one alone by default.

    Attributes:
        epoch: the number, from 1, of the epoch that is being trained, or is next.
        partial: what it has given so far.
        epochs: what those before it gave.
        failing: the metrics of which it was told that they are not numbers.
        optimizer: None until there is one.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        trained: Collection[str],
        weighting: Weighting,
        stopping: Stopping,
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self.weighting = weighting
        self.stopping = stopping
        self.optimizer: torch.optim.Optimizer | None = None
        self.epoch = 1
        self.partial = PartialEpoch()
        self.epochs: list[Epoch] = []
        self.failing: set[str] = set()
        self._trained = trained
        self._processes = processes or Processes()
        self._random: dict[str, Tensor] = {}

    @property
    def losses(self) -> dict[str, float]:
        """The mean loss so far of each task that had rows in the epoch that is being trained."""
        return self.partial.losses(self.model.tasks)

    def end_epoch(self, epoch: Epoch, failing: Iterable[str]) -> None:
        """Add what an epoch gave, with the metrics of which it was told that they are not numbers."""
        self.epochs.append(epoch)
        self.failing |= set(failing)
        self.epoch += 1
        self.partial = PartialEpoch()

    @property
    def size(self) -> int:
        """About how many bytes the state has: weights, two moments of each, and the best weights."""
        return 4 * sum(tensor.nbytes for _, tensor in changing(self.model, self._trained))

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the tensors of which are not copied. Within an epoch, call it where random numbers are
        drawn for its steps, and in all processes."""
        return {
            "epoch": self.epoch,
            "partial": asdict(self.partial),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "failing": sorted(self.failing),
            "model": dict(changing(self.model, self._trained)),
            "weighting": self.weighting.state_dict(),
            "optimizer": self._moments(),
            "stopping": self.stopping.state_dict(),
            "random": _random_states(self.model, self._processes) if self.partial.steps else {},
        }

    @torch.no_grad()
    def load_progress(self, state: Mapping[str, Any]) -> None:
        """Take over all but what is kept on the device: the weighting and the optimizer's moments.

        Raises:
            StorageError: it is the state of another model.
        """
        tensors = dict(changing(self.model, self._trained))
        check_same_shapes("weights and buffers", tensors, state["model"])
        for name, tensor in tensors.items():
            tensor.copy_(state["model"][name])
        self.stopping.load_state_dict(state["stopping"])
        self.epoch = state["epoch"]
        self.partial = PartialEpoch(**state["partial"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.failing = set(state["failing"])
        self._random = state["random"]

    def load_moments(self, state: Mapping[str, Any]) -> None:
        """Take over the weighting and the optimizer's moments, where these are to be used.

        Raises:
            StorageError: it is the state of another model or weighting.
        """
        try:
            self.weighting.load_state_dict(state["weighting"])
        except RuntimeError as error:
            raise StorageError(f"the checkpoint is of another weighting: {error}") from None
        parameters = self._parameters()
        if unknown := state["optimizer"].keys() - parameters.keys():
            raise StorageError(
                f"the checkpoint has moments of {enumerate_names(sorted(unknown), 3)}, which do not train"
            )
        if self.optimizer is None:
            return
        fused = bool(self.optimizer.defaults.get("fused"))  # then the count of steps is on the device too
        for name, moments in state["optimizer"].items():
            device = parameters[name].device
            self.optimizer.state[parameters[name]] = {
                key: value.to(device) if value.ndim or fused else value for key, value in moments.items()
            }

    def restore_random(self) -> None:
        """Let random numbers go on where they were in the middle of an epoch.

        Those of another number of processes are left: they are of other rows.
        """
        of_processes = {name: one if one.ndim == 2 else one[None] for name, one in self._random.items()}
        if of_processes and len(of_processes["cpu"]) == self._processes.count:
            # copies, since torch reads a part of another tensor from that one's beginning, or from nowhere
            own = {name: states[self._processes.number].clone() for name, states in of_processes.items()}
            torch.set_rng_state(own["cpu"])
            if "cuda" in own:
                torch.cuda.set_rng_state(own["cuda"])
        self._random = {}

    def _parameters(self) -> dict[str, Tensor]:
        weighting = {f"{WEIGHTING_GROUP}.{name}": one for name, one in self.weighting.named_parameters()}
        return {**dict(self.model.named_parameters()), **weighting}

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer keeps of each parameter, those that train no more too."""
        if self.optimizer is None:
            return {}
        known = {name: self.optimizer.state.get(one, {}) for name, one in self._parameters().items()}
        return {
            name: {key: value for key, value in moments.items() if value is not None}
            for name, moments in known.items()
            if moments
        }


def check_same_shapes(what: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Check that tensors have the names, shapes and types that they should have.

    Raises:
        StorageError: names those that have not.
    """
    described = [
        {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()} for tensors in (expected, given)
    ]
    differing = [name for name in described[0] | described[1] if described[0].get(name) != described[1].get(name)]
    if differing:
        raise StorageError(
            f"the checkpoint's {what} are those of another model: {enumerate_names(sorted(differing), 3)}"
        )


def _random_states(model: MultiTaskModel, processes: Processes) -> dict[str, Tensor]:
    """The states (S,) of the generators that are drawn from, or (processes, S) where there are several processes."""
    device = next(model.parameters()).device
    of_device = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    states = {"cpu": torch.get_rng_state(), **of_device}
    return states if processes.count == 1 else {name: processes.gather(state) for name, state in states.items()}
