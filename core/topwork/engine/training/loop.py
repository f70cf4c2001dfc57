"""The training loop."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn

from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import measure, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase, Plan
from topwork.engine.model.seeding import derive_seed, seeded
from topwork.engine.observer import Epoch, Observer
from topwork.engine.training.monitor import Monitor, metric_directions
from topwork.engine.training.optimizer import make_optimizer, set_learning_rates, start_phase
from topwork.errors import TrainingError
from topwork.experiment.schema import SplitName, Training
from topwork.interfaces.head import Head

#: Gives the examples of each split for a phase, whose cut the model then has.
LoadExamples = Callable[[Phase], Mapping[SplitName, Examples]]


@dataclass(frozen=True)
class Fit:
    """The outcome of training: the model holds the weights of ``best_epoch``, and ``data`` is cut to fit them."""

    epochs: list[Epoch]
    best_epoch: int
    data: Mapping[SplitName, Examples]


def fit(
    model: MultiTaskModel,
    plan: Plan,
    load_examples: LoadExamples,
    settings: Training,
    loss_weights: Mapping[str, float],
    *,
    accelerator: Accelerator,
    observer: Observer,
) -> Fit:
    """Train what the plan says, measuring after each epoch.

    Args:
        load_examples: gives the examples of each phase.
        loss_weights: the factor of each task's loss in the total.

    Raises:
        TrainingError: a loss or weight is not finite; ``model`` is back at the best epoch so far.
    """
    phase = plan.phases[0]
    data = load_examples(phase)
    steps = math.ceil(data["train"].count / settings.batch_size)
    directions = metric_directions(model.tasks, data.keys())
    monitor = Monitor(plan.shapes.keys(), settings.monitor, directions, settings.patience)
    prepared, optimizer = accelerator.prepare(model), make_optimizer(model, phase)
    epochs: list[Epoch] = []

    for number in range(1, settings.epochs + 1):
        phase = plan.phase_of(number)
        if phase.first == number > 1:  # other layers train from here on, so the cut moves
            start_phase(phase, model, optimizer)
            data = load_examples(phase)
        train = data["train"]
        observer.begin(f"epoch {number}", steps)
        started = perf_counter()
        losses = dict.fromkeys(model.tasks, 0.0)
        model.train()
        with seeded(settings.seed, "dropout", str(number)):
            for step, rows in enumerate(epoch_order(train.count, settings, number).split(settings.batch_size), 1):
                optimizer.zero_grad(set_to_none=True)
                rates = set_learning_rates(
                    optimizer, settings, (number - 1) * steps + step - 1, steps * settings.epochs
                )
                batch_losses = backward(
                    prepared, model.tasks, train, rows, loss_weights, settings.accumulation, accelerator=accelerator
                )
                if not all(map(math.isfinite, batch_losses.values())):
                    monitor.restore(model)
                    raise diverged(batch_losses, rates, number, step, monitor.best_epoch)
                if settings.clip_norm is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), settings.clip_norm)
                optimizer.step()
                losses = {name: loss + batch_losses[name] * len(rows) / train.count for name, loss in losses.items()}
                observer.advance(1)
        seconds = perf_counter() - started

        metrics = measure_epoch(model, losses, data, loss_weights, device=accelerator.device)
        broken = {name: value for name, value in metrics.items() if name.endswith("/loss") and not math.isfinite(value)}
        if broken or not weights_are_finite(model):
            monitor.restore(model)
            raise diverged(broken, rates, number, steps, monitor.best_epoch)
        epochs.append(Epoch(number, metrics, rates, train.count / seconds))
        observer.epoch(epochs[-1])
        monitor.update(epochs[-1], model)
        if monitor.should_stop(number):
            break

    monitor.restore(model)
    if (best := plan.phase_of(monitor.best_epoch)) != phase:  # it has another cut, or other weights left of it
        start_phase(best, model, optimizer)
        data = load_examples(best)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # undo autocast: what follows is plain float32
    model.eval()
    return Fit(epochs, monitor.best_epoch, data)


def backward(
    model: nn.Module,
    tasks: Mapping[str, Head],
    examples: Examples,
    rows: Int[Tensor, " B"],
    loss_weights: Mapping[str, float],
    accumulation: int,
    *,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Add the gradients of one batch, in ``accumulation`` pieces, and return the mean loss of each task."""
    sums = dict.fromkeys(tasks, 0.0)
    pieces = [piece for piece in rows.tensor_split(accumulation) if len(piece)]
    for number, piece in enumerate(pieces):
        hidden, mask = examples.activations.batch(piece)
        with accelerator.no_sync(model) if number < len(pieces) - 1 else nullcontext():
            outputs = model(hidden.to(accelerator.device), mask.to(accelerator.device))
            share = len(piece) / len(rows)
            losses = {
                name: share * head.loss(outputs[name], examples.targets[name][piece].to(accelerator.device))
                for name, head in tasks.items()
            }
            accelerator.backward(sum(loss_weights[name] * loss for name, loss in losses.items()))
        for name, loss in losses.items():
            sums[name] += loss.item()
    return sums


def measure_epoch(
    model: MultiTaskModel,
    losses: Mapping[str, float],
    data: Mapping[SplitName, Examples],
    loss_weights: Mapping[str, float],
    *,
    device: torch.device,
) -> dict[str, float]:
    """Return the training losses and, where there are validation rows, all that is measured on them."""
    metrics = {f"training/{name}/loss": loss for name, loss in losses.items()}
    metrics["training/loss"] = total_loss(metrics, "training", loss_weights)
    if "validation" in data:
        examples = data["validation"]
        figures = measure(model.tasks, outputs_of(model, examples, device=device), examples.targets)
        metrics |= {f"validation/{name}": value for name, value in figures.items()}
        metrics["validation/loss"] = total_loss(metrics, "validation", loss_weights)
    return metrics


def total_loss(metrics: Mapping[str, float], split: str, loss_weights: Mapping[str, float]) -> float:
    """Add up the tasks' losses by their weights."""
    return sum(weight * metrics[f"{split}/{task}/loss"] for task, weight in loss_weights.items())


def epoch_order(count: int, settings: Training, epoch: int) -> Int[Tensor, " N"]:
    """Return the order (N,) in which an epoch takes the rows."""
    if not settings.shuffle:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "order", str(epoch)))
    return torch.randperm(count, generator=generator)


def weights_are_finite(model: MultiTaskModel) -> bool:
    """Whether all trainable weights are finite."""
    # The sum of finite numbers is nearly always finite, and three times quicker than a look at each.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return all(bool(p.sum().isfinite()) or bool(p.isfinite().all()) for p in trainable)


def diverged(
    figures: Mapping[str, float], rates: Mapping[str, float], epoch: int, step: int, best_epoch: int
) -> TrainingError:
    """Say what is not finite, when, and at which rates."""
    wrong = ", ".join(f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value))
    at_rates = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    kept = (
        f"the weights of epoch {best_epoch} are kept" if best_epoch else "no epoch was finished, so no weights are kept"
    )
    return TrainingError(
        f"training diverged in epoch {epoch}, step {step}: {wrong or 'a weight is not finite'}; "
        f"learning rates: {at_rates}; try lower rates or training.clip_norm; {kept}",
        kept_epoch=best_epoch,
    )
