"""The training loop."""

import math
import os
from collections.abc import Collection, Iterator, Mapping
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
from topwork.engine.plan import Plan
from topwork.errors import ConfigurationError, TrainingError, did_you_mean
from topwork.experiment.schema import Experiment, SplitName, Training


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: from 1.
        metrics: by full name, such as ``training/loss`` or ``validation/sentiment/accuracy``.
        rates: the learning rate of each group in the last step.
        texts_per_second: in training, evaluation left out.
    """

    number: int
    metrics: dict[str, float]
    rates: dict[str, float]
    texts_per_second: float


class Observer:
    """Watches a run; what it does not override is ignored."""

    def begin(self, phase: str, total: int) -> None:
        """A phase of ``total`` texts or steps begins; phases do not overlap."""

    def advance(self, done: int) -> None:
        """``done`` more texts or steps of the phase are finished."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is finished and measured."""


@dataclass(frozen=True)
class Fit:
    """The outcome of training: the model holds the weights of epoch ``best``."""

    epochs: list[Epoch]
    best: int


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
    data: Mapping[SplitName, Rows],
    experiment: Experiment,
    *,
    accelerator: Accelerator,
    observer: Observer,
) -> Fit:
    """Train what the plan says on ``data["train"]``, measuring validation rows after each epoch.

    Raises:
        TrainingError: a loss or weight is not finite; ``model`` is back at the best epoch so far.
    """
    settings, train = experiment.training, data["train"]
    steps = math.ceil(train.count / settings.batch_size)
    monitor = Monitor(model, settings, data.keys())
    optimizer = make_optimizer(model, plan)
    schedule = make_schedule(optimizer, settings, steps * settings.epochs)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    epochs: list[Epoch] = []

    for number in range(1, settings.epochs + 1):
        observer.begin(f"epoch {number}", steps)
        started = perf_counter()
        losses = dict.fromkeys(model.tasks, 0.0)
        model.train()
        with seeded(settings.seed, "dropout", str(number)):
            for step, rows in enumerate(order(train.count, settings, number).split(settings.batch_size), 1):
                optimizer.zero_grad(set_to_none=True)
                batch_losses = backward(prepared, train, rows, experiment, accelerator=accelerator)
                if not all(map(math.isfinite, batch_losses.values())):
                    raise monitor.give_up(model, diverged(batch_losses, optimizer, number, step, monitor.best))
                if settings.clip_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), settings.clip_norm)
                optimizer.step()
                rates = rates_of(optimizer)
                schedule.step()
                losses = {name: loss + batch_losses[name] * len(rows) / train.count for name, loss in losses.items()}
                observer.advance(1)
        seconds = perf_counter() - started

        metrics = {f"training/{name}/loss": loss for name, loss in losses.items()}
        metrics["training/loss"] = total_loss(metrics, "training", experiment)
        if "validation" in data:
            metrics |= evaluate(model, data["validation"], "validation", experiment, device=accelerator.device)
        broken = {name: value for name, value in metrics.items() if name.endswith("/loss") and not math.isfinite(value)}
        if broken or not finite(model):
            raise monitor.give_up(model, diverged(broken, optimizer, number, steps, monitor.best))
        epoch = Epoch(number, metrics, rates, train.count / seconds)
        epochs.append(epoch)
        observer.epoch(epoch)
        monitor.note(epoch, model)
        if monitor.exhausted(number):
            break

    monitor.restore(model)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # undo autocast: what follows is plain float32
    model.eval()
    return Fit(epochs, monitor.best)


def backward(
    model: torch.nn.Module, data: Rows, rows: Tensor, experiment: Experiment, *, accelerator: Accelerator
) -> dict[str, float]:
    """Add the gradients of one batch, in as many pieces as asked for, and return the mean loss of each task."""
    tasks = accelerator.unwrap_model(model).tasks
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


def evaluate(
    model: MultiTaskModel, rows: Rows, split: str, experiment: Experiment, *, device: torch.device
) -> dict[str, float]:
    """Measure every task, and the weighted total loss, under names that start with ``split``."""
    figures = measure(model.tasks, outputs_of(model, rows, device=device), rows.targets)
    metrics = {f"{split}/{name}": value for name, value in figures.items()}
    metrics[f"{split}/loss"] = total_loss(metrics, split, experiment)
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


def make_optimizer(model: MultiTaskModel, plan: Plan) -> torch.optim.AdamW:
    """Build AdamW with the plan's groups; all else as torch has it by default."""
    parameters = dict(model.named_parameters())
    groups = [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.parameters],
            "lr": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in plan.groups
    ]
    # One fused kernel for all parameters: after encoding, the optimizer's memory traffic is most of a step.
    return torch.optim.AdamW(groups, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: Training, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Scale all rates: up to 1 over the warm-up steps, then as the schedule says, to 0 after ``steps``."""
    warmup = round(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def rates_of(optimizer: Any) -> dict[str, float]:
    """Return the learning rate of each group."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def changing(model: MultiTaskModel) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes: trainable weights, and buffers such as a norm's running mean."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    yield from model.named_buffers()


def finite(model: MultiTaskModel) -> bool:
    """Whether all trainable weights are finite."""
    return all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad)


def diverged(figures: Mapping[str, float], optimizer: Any, epoch: int, step: int, best: int) -> TrainingError:
    """Say what is not finite, when, and at which rates."""
    wrong = ", ".join(f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value))
    rates = ", ".join(f"{name} {rate:g}" for name, rate in rates_of(optimizer).items())
    kept = f"the weights of epoch {best} are kept" if best else "no epoch was finished, so no weights are kept"
    return TrainingError(
        f"training diverged in epoch {epoch}, step {step}: {wrong or 'a weight is not finite'}; "
        f"learning rates: {rates}; try lower rates or training.clip_norm; {kept}",
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
    """Check that the monitored metric will exist.

    Raises:
        ConfigurationError: it will not; names those that will.
    """
    name, given = experiment.training.monitor, directions(model, splits)
    if name not in given:
        hint = did_you_mean(name, given)
        if not hint and "validation" not in splits and name.startswith("validation/"):
            hint = "; there are no validation rows: set split.validation or a validation file"
        where = experiment.origin.locate("training", "monitor")
        raise ConfigurationError(f"{where}: there is no metric {name!r}, only {', '.join(given)}{hint}")


class Monitor:
    """Watches one metric and keeps what training changes as it was after the best epoch."""

    def __init__(self, model: MultiTaskModel, settings: Training, splits: Collection[SplitName]) -> None:
        self.name = settings.monitor
        self.patience = settings.patience
        self.sign = 1 if directions(model, splits)[self.name] else -1
        self.best = 0
        self.score = -math.inf
        self.state: dict[str, Tensor] = {}

    def note(self, epoch: Epoch, model: MultiTaskModel) -> None:
        """Keep an epoch if it is the best so far; without patience the last one counts as that."""
        value = epoch.metrics[self.name]
        score = -math.inf if math.isnan(value) else self.sign * value
        if score > self.score or not self.best or self.patience is None:
            self.best, self.score = epoch.number, score
            self.state = {name: tensor.clone() for name, tensor in changing(model)}

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
            for name, tensor in changing(model):
                tensor.copy_(self.state[name])
