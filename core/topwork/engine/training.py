"""The training loop."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from topwork.engine.evaluation import Rows, measure, outputs_of
from topwork.engine.model import MultiTaskModel, derive_seed, seeded
from topwork.engine.observer import Epoch, Observer
from topwork.engine.plan import Phase, Plan
from topwork.errors import ConfigurationError, TrainingError
from topwork.experiment.objective import greater_is_better, parse_objective
from topwork.experiment.schema import Experiment, SplitName, Training
from topwork.interfaces.head import Head


@dataclass(frozen=True)
class Fit:
    """The outcome of training: the model holds the weights of epoch ``best``, and ``data`` is cut to fit them."""

    epochs: list[Epoch]
    best: int
    data: Mapping[SplitName, Rows]


def make_accelerator(settings: Training) -> Accelerator:
    """Choose device and precision.

    Raises:
        ConfigurationError: the device that the experiment asks for is not there.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run of a process decides for all
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=precision)
    if settings.device != "auto" and accelerator.device.type != settings.device:
        raise ConfigurationError(
            f"training.device is {settings.device}, but this machine offers {accelerator.device.type}; use auto"
        )
    if accelerator.device.type == "cuda":  # where kernels differ from run to run, take those that do not
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return accelerator


def fit(
    model: MultiTaskModel,
    plan: Plan,
    read: Callable[[Phase], Mapping[SplitName, Rows]],
    experiment: Experiment,
    *,
    accelerator: Accelerator,
    observer: Observer,
) -> Fit:
    """Train what the plan says on the rows that ``read`` gives for each phase, measuring after each epoch.

    Raises:
        TrainingError: a loss or weight is not finite; ``model`` is back at the best epoch so far.
    """
    settings, data = experiment.training, read(plan.phases[0])
    steps = math.ceil(data["train"].count / settings.batch_size)
    monitor = Monitor(model, plan, settings, data.keys())
    prepared, optimizer = accelerator.prepare(model), make_optimizer(model, plan.phases[0])
    epochs: list[Epoch] = []

    for number in range(1, settings.epochs + 1):
        phase = plan.phase_of(number)
        if phase.first == number > 1:  # other layers train from here on, so the cut moves
            data = enter(phase, model, optimizer, read)
        train = data["train"]
        observer.begin(f"epoch {number}", steps)
        started = perf_counter()
        losses = dict.fromkeys(model.tasks, 0.0)
        model.train()
        with seeded(settings.seed, "dropout", str(number)):
            for step, rows in enumerate(order(train.count, settings, number).split(settings.batch_size), 1):
                optimizer.zero_grad(set_to_none=True)
                rates = set_rates(optimizer, settings, (number - 1) * steps + step - 1, steps * settings.epochs)
                batch_losses = backward(prepared, model.tasks, train, rows, experiment, accelerator=accelerator)
                if not all(map(math.isfinite, batch_losses.values())):
                    raise monitor.give_up(model, diverged(batch_losses, rates, number, step, monitor.best))
                if settings.clip_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), settings.clip_norm)
                optimizer.step()
                losses = {name: loss + batch_losses[name] * len(rows) / train.count for name, loss in losses.items()}
                observer.advance(1)
        seconds = perf_counter() - started

        metrics = measure_epoch(model, losses, data, experiment, device=accelerator.device)
        broken = {name: value for name, value in metrics.items() if name.endswith("/loss") and not math.isfinite(value)}
        if broken or not finite(model):
            raise monitor.give_up(model, diverged(broken, rates, number, steps, monitor.best))
        epochs.append(Epoch(number, metrics, rates, train.count / seconds))
        observer.epoch(epochs[-1])
        monitor.note(epochs[-1], model)
        if monitor.exhausted(number):
            break

    monitor.restore(model)
    if (best := plan.phase_of(monitor.best)) != phase:  # it has another cut, or other weights left of it
        data = enter(best, model, optimizer, read)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # undo autocast: what follows is plain float32
    model.eval()
    return Fit(epochs, monitor.best, data)


def backward(
    model: torch.nn.Module,
    tasks: Mapping[str, Head],
    data: Rows,
    rows: Tensor,
    experiment: Experiment,
    *,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Add the gradients of one batch, in as many pieces as asked for, and return the mean loss of each task."""
    sums = dict.fromkeys(tasks, 0.0)
    pieces = [piece for piece in rows.tensor_split(experiment.training.accumulation) if len(piece)]
    for number, piece in enumerate(pieces):
        hidden, mask = data.activations.batch(piece)
        with accelerator.no_sync(model) if number < len(pieces) - 1 else nullcontext():
            outputs = model(hidden.to(accelerator.device), mask.to(accelerator.device))
            share = len(piece) / len(rows)
            losses = {
                name: share * head.loss(outputs[name], data.targets[name][piece].to(accelerator.device))
                for name, head in tasks.items()
            }
            accelerator.backward(sum(experiment.tasks[name].loss_weight * loss for name, loss in losses.items()))
        for name, loss in losses.items():
            sums[name] += loss.item()
    return sums


def measure_epoch(
    model: MultiTaskModel,
    losses: Mapping[str, float],
    data: Mapping[SplitName, Rows],
    experiment: Experiment,
    *,
    device: torch.device,
) -> dict[str, float]:
    """Return the training losses and, where there are validation rows, all that is measured on them."""
    metrics = {f"training/{name}/loss": loss for name, loss in losses.items()}
    metrics["training/loss"] = total_loss(metrics, "training", experiment)
    if "validation" in data:
        rows = data["validation"]
        figures = measure(model.tasks, outputs_of(model, rows, device=device), rows.targets)
        metrics |= {f"validation/{name}": value for name, value in figures.items()}
        metrics["validation/loss"] = total_loss(metrics, "validation", experiment)
    return metrics


def total_loss(metrics: Mapping[str, float], split: str, experiment: Experiment) -> float:
    """Add up the tasks' losses by their weights."""
    return sum(task.loss_weight * metrics[f"{split}/{name}/loss"] for name, task in experiment.tasks.items())


def order(count: int, settings: Training, epoch: int) -> Tensor:
    """Return the order (N,) in which an epoch takes the rows."""
    if not settings.shuffle:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "order", str(epoch)))
    return torch.randperm(count, generator=generator)


def make_optimizer(model: MultiTaskModel, phase: Phase) -> torch.optim.AdamW:
    """Build AdamW with a phase's groups; all else as torch has it by default."""
    # One fused kernel for all parameters: after encoding, the optimizer's memory traffic is most of a step.
    return torch.optim.AdamW(groups_of(model, phase), fused=True)


def enter(
    phase: Phase, model: MultiTaskModel, optimizer: Any, read: Callable[[Phase], Mapping[SplitName, Rows]]
) -> Mapping[SplitName, Rows]:
    """Thaw and freeze, move the cut, and return the rows for it. What goes on training keeps its moments."""
    optimizer.zero_grad(set_to_none=True)  # what freezes now must not count in the norm that is clipped
    model.train_only(phase.thawed)
    optimizer.param_groups.clear()
    for group in groups_of(model, phase):
        optimizer.add_param_group(group)
    return read(phase)


def groups_of(model: MultiTaskModel, phase: Phase) -> list[dict[str, Any]]:
    """Return a phase's groups as torch wants them."""
    parameters = dict(model.named_parameters())
    return [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.parameters],
            "lr": group.learning_rate,
            "initial_lr": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in phase.groups
    ]


def set_rates(optimizer: Any, settings: Training, step: int, steps: int) -> dict[str, float]:
    """Set each group's learning rate for ``step`` (from 0) of ``steps`` and return the rates by group."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate_factor(settings, step, steps)
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def rate_factor(settings: Training, step: int, steps: int) -> float:
    """What all rates are multiplied with: up to 1 over the warm-up steps, then as the schedule says, to 0."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]


def finite(model: MultiTaskModel) -> bool:
    """Whether all trainable weights are finite."""
    # The sum of finite numbers is nearly always finite, and three times quicker than a look at each.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return all(bool(p.sum().isfinite()) or bool(p.isfinite().all()) for p in trainable)


def diverged(
    figures: Mapping[str, float], rates: Mapping[str, float], epoch: int, step: int, best: int
) -> TrainingError:
    """Say what is not finite, when, and at which rates."""
    wrong = ", ".join(f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value))
    shown = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    kept = f"the weights of epoch {best} are kept" if best else "no epoch was finished, so no weights are kept"
    return TrainingError(
        f"training diverged in epoch {epoch}, step {step}: {wrong or 'a weight is not finite'}; "
        f"learning rates: {shown}; try lower rates or training.clip_norm; {kept}",
        kept_epoch=best,
    )


def directions(model: MultiTaskModel, splits: Collection[SplitName]) -> dict[str, bool]:
    """Every metric that an epoch gives, and whether greater is better."""
    losses = ["loss", *(f"{task}/loss" for task in model.tasks)]
    given = {f"training/{name}": False for name in losses}
    if "validation" in splits:
        given |= {f"validation/{name}": False for name in losses}
        for task, head in model.tasks.items():
            given |= {f"validation/{task}/{metric.name}": metric.greater_is_better for metric in head.metrics}
    return given


def check_monitor(experiment: Experiment, model: MultiTaskModel, splits: Collection[SplitName]) -> None:
    """Check that the monitored metrics will exist and that it is known which way is better.

    Raises:
        ConfigurationError: one will not, and names those that will; or some should rise and others fall.
    """
    objective, given = parse_objective(experiment.training.monitor), directions(model, splits)
    try:
        greater_is_better(objective, given)
    except ValueError as fault:
        where = experiment.origin.locate("training", "monitor")
        told = [f"{where}: {line}" for line in str(fault).splitlines()]
        if "validation" not in splits and any(name.startswith("validation/") for name in objective.metrics()):
            told[-1] += "; there are no validation rows: set split.validation or a validation file"
        raise ConfigurationError("\n".join(told)) from None


class Monitor:
    """Watches an objective and keeps what training changes as it was after the best epoch."""

    def __init__(self, model: MultiTaskModel, plan: Plan, settings: Training, splits: Collection[SplitName]) -> None:
        self.trained = plan.shapes.keys()
        self.objective = parse_objective(settings.monitor)
        self.patience = settings.patience
        self.sign = 1 if greater_is_better(self.objective, directions(model, splits)) else -1
        self.best = 0
        self.score = -math.inf
        self.state: dict[str, Tensor] = {}

    def note(self, epoch: Epoch, model: MultiTaskModel) -> None:
        """Keep an epoch if it is the best so far; without patience the last one counts as that."""
        value = self.objective.of(epoch.metrics)
        score = -math.inf if math.isnan(value) else self.sign * value
        if score > self.score or not self.best or self.patience is None:
            self.best, self.score = epoch.number, score
            if not self.state:
                self.state = {name: torch.empty_like(tensor) for name, tensor in self._changing(model)}
            for name, tensor in self._changing(model):
                self.state[name].copy_(tensor)

    def exhausted(self, epoch: int) -> bool:
        """Whether the metric has not improved for as many epochs as patience allows."""
        return self.patience is not None and epoch - self.best >= self.patience

    def give_up(self, model: MultiTaskModel, fault: TrainingError) -> TrainingError:
        """Go back to the best epoch and return ``fault`` to be raised."""
        self.restore(model)
        return fault

    @torch.no_grad()
    def restore(self, model: MultiTaskModel) -> None:
        """Put the weights and buffers of the best epoch back, if there was one."""
        if self.state:
            for name, tensor in self._changing(model):
                tensor.copy_(self.state[name])

    def _changing(self, model: MultiTaskModel) -> Iterator[tuple[str, Tensor]]:
        """Yield what training changes in any phase: weights, and buffers such as a norm's running mean."""
        for name, parameter in model.named_parameters():
            if name in self.trained:
                yield name, parameter.detach()
        yield from model.named_buffers()
