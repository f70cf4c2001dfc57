"""The scalarizers and gradient aggregators of TorchJD."""

import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

import topwork

logger = logging.getLogger(__name__)

#: What TorchJD makes one total with.
Scalarizer = Literal[
    "COSMOS", "Constant", "DWA", "FAMO", "GeometricMean", "IMTLL", "Mean", "PBI", "Random", "STCH", "Sum", "UW"
]

#: What it makes one gradient with.
Aggregator = Literal[
    "AlignedMTL", "CAGrad", "ConFIG", "Constant", "DualProj", "ExcessMTL", "FairGrad", "GradDrop", "GradVac", "IMTLG",
    "Krum", "MGDA", "Mean", "NashMTL", "PCD", "PCGrad", "Random", "Sum", "TrimmedMean", "UPGrad",
]  # fmt: skip

#: Aggregators that keep something of every task from step to step, and the names of it.
STATEFUL = {
    "ExcessMTL": ("_weights", "_sq_grad_sum", "_initial_w", "_warmup_w_sum", "_n_steps"),
    "GradVac": ("_phi_t",),
    "NashMTL": ("prvs_alpha", "normalization_factor", "step"),
    "PCD": ("_sq_norm_ema", "_n_steps"),
}

#: What is known from the tasks, and what is no value that a file can hold.
NO_OPTIONS = ("self", "shape", "n_tasks", "f", "projector")


class TorchJdConfig(topwork.LossWeightingConfig):
    """Settings of the loss weighting ``torchjd``; needs ``pip install 'topwork[torchjd]'``.

    Attributes:
        scalarizer: makes one total of the losses: one of TorchJD's.
        aggregator: instead, makes one gradient of the gradients by what tasks share: one of TorchJD's. Each step goes
            back through what tasks share once for each task.
        options: of it, by TorchJD's names. Where it takes a number for each task, give them by the tasks' names.
        learning_rate: of parameters, which UW and IMTLL have.
    """

    kind: Literal["torchjd"] = "torchjd"
    scalarizer: Scalarizer | None = None
    aggregator: Aggregator | None = None
    options: dict[str, bool | int | float | str | dict[str, float]] = Field(default={})
    learning_rate: topwork.Rate = 1e-3

    @model_validator(mode="after")
    def _names_one(self) -> "TorchJdConfig":
        if (self.scalarizer is None) == (self.aggregator is None):
            raise ValueError("give either a scalarizer, such as UW, or an aggregator, such as UPGrad")
        return self

    def named_tasks(self) -> Sequence[str]:
        return [task for option in self.options.values() if isinstance(option, dict) for task in option]

    def build(self, tasks: Sequence[str]) -> topwork.LossWeighting | topwork.GradientWeighting:
        make = self._maker(tasks)
        if self.aggregator in STATEFUL:
            return StatefulGradients(make(tasks), tasks, STATEFUL[self.aggregator])
        if self.aggregator:
            return Gradients(make, tasks, name=self.aggregator)
        if self.scalarizer in ("UW", "IMTLL"):
            return LearntFactors(make, tasks, self.learning_rate)
        if self.scalarizer == "DWA":
            return LossesByEpoch(make, tasks)
        return LossesByStep(make(tasks), tasks) if self.scalarizer == "FAMO" else Losses(make)

    def _maker(self, tasks: Sequence[str]) -> "Callable[[Sequence[str]], Any]":
        """Return what makes the scalarizer or aggregator for some of the tasks.

        Raises:
            ValueError: TorchJD is not installed, or an option is not one of it.
        """
        home, name = ("aggregation", self.aggregator) if self.aggregator else ("scalarization", self.scalarizer)
        try:
            made = getattr(importlib.import_module(f"torchjd.{home}"), str(name))
        except ImportError as error:
            raise ValueError(f"{name} needs TorchJD: pip install 'topwork[torchjd]' ({error})") from None
        known = inspect.signature(made).parameters
        options = [option for option in known if option not in NO_OPTIONS]
        if unknown := [option for option in self.options if option not in options]:
            hint = topwork.did_you_mean(unknown[0], options)
            raise ValueError(f"{name} has no option {', '.join(unknown)}, only {', '.join(options) or 'none'}{hint}")
        required = [option for option in options if known[option].default is inspect.Parameter.empty]
        if missing := [option for option in required if option not in self.options]:
            raise ValueError(f"{name} needs options.{', options.'.join(missing)}")
        for option, value in self.options.items():
            if isinstance(value, dict) and (without := [task for task in tasks if task not in value]):
                raise ValueError(
                    f"options.{option} needs a number for each task, and has none for {', '.join(without)}"
                )

        def make(some: Sequence[str]) -> Any:
            counts = {option: len(some) for option in ("shape", "n_tasks") if option in known}
            values = {option: _value(given, some) for option, given in self.options.items()}
            try:
                return made(**counts, **values)
            except ImportError as error:
                raise ValueError(f"{name} needs more packages: pip install 'topwork[torchjd]' ({error})") from None
            except TypeError as error:
                raise ValueError(f"options do not fit {name}: {error}") from None

        return make


def _value(given: Any, tasks: Sequence[str]) -> Any:
    """Return an option as TorchJD takes it."""
    return torch.tensor([given[task] for task in tasks]) if isinstance(given, dict) else given


class Losses(topwork.LossWeighting):
    """A scalarizer without state, made anew for the tasks that have rows."""

    def __init__(self, make: Callable[[Sequence[str]], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        values = torch.stack(list(losses.values()))
        total: Tensor = self.make(list(losses)).to(values.device)(values)
        return total


class LearntFactors(topwork.LossWeighting):
    """A scalarizer with a parameter for each task, whose total is a sum over tasks."""

    factors_from: ClassVar[topwork.FactorsFrom] = "history"

    def __init__(self, make: Callable[[Sequence[str]], Any], tasks: Sequence[str], learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.numbers = {task: str(number) for number, task in enumerate(tasks)}
        self.of_tasks = nn.ModuleDict({self.numbers[task]: make([task]) for task in tasks})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        terms = [self.of_tasks[self.numbers[task]](loss.reshape(1)) for task, loss in losses.items()]
        return torch.stack(terms).sum()


class LossesByEpoch(topwork.LossWeighting):
    """A scalarizer whose factors follow from the mean losses of earlier epochs."""

    factors_from: ClassVar[topwork.FactorsFrom] = "history"

    def __init__(self, make: Callable[[Sequence[str]], Any], tasks: Sequence[str]) -> None:
        super().__init__()
        self.make = make
        self.tasks = list(tasks)
        self.register_buffer("means", torch.full((2, len(tasks)), torch.nan))  # of the epoch before last, and the last
        self.register_buffer("factors", torch.ones(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        factors = self.get_buffer("factors")[[self.tasks.index(task) for task in losses]]
        return (factors * torch.stack(list(losses.values()))).sum()

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        means = self.get_buffer("means")
        last = means[1].nan_to_num(1.0).tolist()  # a task that has had no rows counts with 1
        now = [losses.get(task, before) for task, before in zip(self.tasks, last, strict=True)]
        means.copy_(torch.stack([means[1], means.new_tensor(now)]))
        scalarizer = self.make(self.tasks)
        for of_epoch in means if means.isfinite().all() else means[1:]:
            scalarizer(of_epoch)
            scalarizer.step()
        values = torch.ones_like(means[1]).requires_grad_()
        self.get_buffer("factors").copy_(torch.autograd.grad(scalarizer(values), values)[0])


class LossesByStep(topwork.LossWeighting):
    """FAMO, which learns from the losses after each step. A task without rows counts with its last loss."""

    reads_losses_after_step: ClassVar[bool] = True

    def __init__(self, scalarizer: Any, tasks: Sequence[str]) -> None:
        super().__init__()
        self.scalarizer = (scalarizer,)  # in a tuple, so that its parameters are none of ours: it steps them itself
        self.tasks = list(tasks)
        self.register_buffer("last", torch.ones(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = self._scalarizer(losses)(self._of_all(losses))
        return total

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        self._scalarizer(losses).update(self._of_all(losses))

    def get_extra_state(self) -> Tensor:
        """Return its logits, and of the Adam that steps them both moments and the number of steps: (4, tasks)."""
        logits, adam = self.scalarizer[0]._w, self.scalarizer[0]._optimizer
        moments: Mapping[str, Tensor] = adam.state[logits] if adam else {}
        zeros = torch.zeros_like(logits)
        rows = [moments.get("exp_avg", zeros), moments.get("exp_avg_sq", zeros), zeros + moments.get("step", 0)]
        return torch.stack([logits.detach(), *rows])

    def set_extra_state(self, state: Tensor) -> None:
        famo = self.scalarizer[0]
        logits, average, average_of_squares, steps = state.to(famo._w.device).clone()
        famo._w.data.copy_(logits)
        famo._optimizer = torch.optim.Adam([famo._w], lr=famo.lr, weight_decay=famo.weight_decay)
        if steps.any():
            moments = {"exp_avg": average, "exp_avg_sq": average_of_squares}
            famo._optimizer.state[famo._w] = {"step": steps[0].cpu(), **moments}

    def _scalarizer(self, losses: Mapping[str, Tensor]) -> Any:
        return self.scalarizer[0].to(next(iter(losses.values())).device)

    def _of_all(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The losses of all tasks (tasks,), which are kept."""
        last = self.get_buffer("last")
        values = torch.stack([losses.get(task, last[number]) for number, task in enumerate(self.tasks)])
        self.last = values.detach()
        return values


class Gradients(topwork.GradientWeighting):
    """An aggregator without state, made anew for the tasks that have rows; where these are too few for it, the mean."""

    def __init__(self, make: Callable[[Sequence[str]], Any], tasks: Sequence[str], *, name: str) -> None:
        super().__init__()
        self.make = make
        self.count = len(tasks)
        self.name = name
        self.told = False

    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        try:
            combined: Tensor = self.make(tasks).to(gradients.device)(gradients)
        except ValueError:
            if len(tasks) == self.count:
                raise
            if not self.told:
                logger.warning("%s needs more tasks than %s; a step without others takes the mean", self.name, tasks)
                self.told = True
            return gradients.mean(dim=0)
        return combined


class StatefulGradients(topwork.GradientWeighting):
    """An aggregator that weighs the gradients of all tasks: one without rows by its last, which adds nothing."""

    def __init__(self, aggregator: Any, tasks: Sequence[str], kept: Sequence[str]) -> None:
        super().__init__()
        self.aggregator = (aggregator,)  # in a tuple, since its buffers have no shape before the first step
        self.tasks = list(tasks)
        self.kept = tuple(kept)
        self.last: dict[str, Tensor] = {}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the last gradient of each task, and what the aggregator keeps."""
        values = {name: getattr(_keeper(self.aggregator[0]), name) for name in self.kept}
        kept = {
            name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        return {"last": dict(self.last), "kept": kept}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.last = {task: last.clone() for task, last in state["last"].items()}
        keeper = _keeper(self.aggregator[0])
        keeper.reset()
        if state["kept"].get("step"):  # of NashMTL, which makes its problem in the first step, from what it begins with
            keeper._init_optim_problem()
        for name, value in state["kept"].items():
            of_numpy = isinstance(getattr(keeper, name), np.ndarray)
            copied = value.clone() if isinstance(value, Tensor) else value
            setattr(keeper, name, copied.numpy() if of_numpy else copied)
        _mark_as_begun(keeper)

    def forward(self, gradients: Tensor, tasks: Sequence[str]) -> Tensor:
        self.last = {task: last for task, last in self.last.items() if last.shape == gradients.shape[1:]}
        self.last |= dict(zip(tasks, gradients, strict=True))
        unseen = gradients.mean(dim=0)
        every = torch.stack([self.last.get(task, unseen) for task in self.tasks])
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):  # NashMTL goes on with its last
            warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP")  # by NashMTL
            weights = self.aggregator[0].weighting(every)
        combined: Tensor = weights[[self.tasks.index(task) for task in tasks]].to(gradients.dtype) @ gradients
        return combined


def _keeper(aggregator: Any) -> Any:
    """The part of an aggregator that keeps something from step to step."""
    return getattr(aggregator, "gramian_weighting", aggregator.weighting)


def _mark_as_begun(keeper: Any) -> None:
    """Let what keeps something know that it is of tasks and gradients like those to come."""
    match type(keeper).__name__:
        case "ExcessMTLWeighting" if (sums := keeper._sq_grad_sum) is not None:
            keeper._state_key = (*sums.shape, sums.dtype, sums.device)
        case "GradVacWeighting" if (cosines := keeper._phi_t) is not None:
            keeper._state_key = (len(cosines), cosines.dtype)
        case "PCDWeighting" if (norms := keeper._sq_norm_ema) is not None:
            keeper._state_key = len(norms)


@topwork.hookimpl
def register_loss_weightings(register: topwork.Register[topwork.LossWeightingConfig]) -> None:
    register(TorchJdConfig)
