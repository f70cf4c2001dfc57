"""The training loop."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn

from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import measure, outputs_of
from topwork.engine.model.checked_head import denominator_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase, Plan
from topwork.engine.model.seeding import derive_seed, seeded
from topwork.engine.observer import Epoch, Observer
from topwork.engine.training.early_stopping import EarlyStopping, metric_directions
from topwork.engine.training.optimizer import make_optimizer, set_learning_rates, start_phase
from topwork.errors import TrainingError
from topwork.experiment.schema import Training
from topwork.experiment.source import SplitName
from topwork.interfaces.head import Head

#: Returns the examples of each split for a phase. The model is already cut as that phase says.
LoadExamples = Callable[[Phase], Mapping[SplitName, Examples]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The outcome of training: the model has the weights of ``best_epoch``, and ``data`` belongs to its cut."""

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
        TrainingError: a loss or weight is not finite, or the monitor never is a number; ``model`` is back at the best
            epoch so far.
        PluginError: a head fails.
    """
    phase = plan.phases[0]
    data = load_examples(phase)
    steps = math.ceil(data["train"].count / settings.batch_size)
    validated = data["validation"].labelled_targets() if "validation" in data else ()
    directions = metric_directions(model.tasks, validated)
    early_stopping = EarlyStopping(plan.shapes.keys(), settings.monitor, directions, settings.patience)
    wrapped, optimizer = accelerator.prepare(model), make_optimizer(model, phase)
    epochs: list[Epoch] = []
    failing: set[str] = set()  # each metric that fails is told once

    for number in range(1, settings.epochs + 1):
        phase = plan.phase_of(number)
        if phase.first == number > 1:  # other layers train from here on, so the cut moves
            start_phase(phase, model, optimizer)
            data = load_examples(phase)
        try:
            started = perf_counter()
            losses, rates = train_epoch(
                wrapped, model, optimizer, data["train"], number, settings, loss_weights, accelerator, observer
            )
            seconds = perf_counter() - started
            metrics, failures = measure_epoch(model, losses, data, loss_weights, device=accelerator.device)
            check_finite(model, metrics, step=steps)
        except NotFiniteError as error:
            early_stopping.restore(model)
            raise divergence_error(error, number, optimizer, early_stopping.best_epoch) from None
        epochs.append(Epoch(number, metrics, rates, data["train"].count / seconds))
        observer.epoch(epochs[-1])
        for name in failures.keys() - failing:
            logger.warning("epoch %d: validation/%s is not a number: %s", number, name, failures[name])
        failing |= failures.keys()
        early_stopping.update(epochs[-1], model)
        if early_stopping.should_stop():
            break

    early_stopping.restore(model)
    early_stopping.check_measured()
    best_epoch = early_stopping.best_epoch
    if (best := plan.phase_of(best_epoch)) != phase:  # an earlier phase, with another cut or another prefix
        start_phase(best, model, optimizer)
        data = load_examples(best)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # undo autocast: what follows is plain float32
    model.eval()
    tune_heads(model, data, device=accelerator.device)
    return Fit(epochs, best_epoch, data)


@torch.no_grad()
def tune_heads(model: MultiTaskModel, data: Mapping[SplitName, Examples], *, device: torch.device) -> None:
    """Let each head that wants to set what it reads off the validation rows, such as thresholds."""
    tuned = {name: tune for name, head in model.tasks.items() if (tune := head.tune)}
    if not tuned or "validation" not in data:
        return
    outputs, targets = outputs_of(model, data["validation"], device=device), data["validation"].labelled_targets()
    for name in tuned.keys() & outputs.keys():
        tuned[name](outputs[name], targets[name])


def train_epoch(
    wrapped: nn.Module,
    model: MultiTaskModel,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    epoch: int,
    settings: Training,
    loss_weights: Mapping[str, float],
    accelerator: Accelerator,
    observer: Observer,
) -> tuple[dict[str, float], dict[str, float]]:
    """Take every training row once; return each task's mean loss, and each group's learning rate in the last step.

    Args:
        wrapped: ``model`` as accelerate runs it.
        epoch: its number, from 1.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    steps = math.ceil(examples.count / settings.batch_size)
    targets, device = examples.labelled_targets(), accelerator.device
    totals = {name: denominator_of(head, targets[name], device) for name, head in model.tasks.items()}
    losses = dict.fromkeys(model.tasks, 0.0)
    rates: dict[str, float] = {}
    observer.begin(f"epoch {epoch}", steps)
    model.train()
    with seeded(settings.seed, "dropout", str(epoch)):
        for step, rows in enumerate(row_order(examples.source_sizes, settings, epoch).split(settings.batch_size), 1):
            optimizer.zero_grad(set_to_none=True)
            rates = set_learning_rates(optimizer, settings, (epoch - 1) * steps + step - 1, steps * settings.epochs)
            batch_losses, denominators = backward(
                wrapped, model.tasks, examples, rows, loss_weights, settings.accumulation, accelerator=accelerator
            )
            if not all(map(math.isfinite, batch_losses.values())):
                raise NotFiniteError(batch_losses, step)
            if settings.clip_norm is not None:
                accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip_norm)
            optimizer.step()
            for name, loss in batch_losses.items():
                losses[name] += loss * denominators[name] / (totals[name] or 1.0)
            observer.advance(1)
    return losses, rates


def backward(
    model: nn.Module,
    tasks: Mapping[str, Head],
    examples: Examples,
    rows: Int[Tensor, " B"],
    loss_weights: Mapping[str, float],
    accumulation: int,
    *,
    accelerator: Accelerator,
) -> tuple[dict[str, float], dict[str, float]]:
    """Add the gradients of one batch, in ``accumulation`` pieces; return each task's mean loss, and its denominator.

    A task of which no row has a label takes no part: its head gets no gradient.
    """
    device = accelerator.device
    pieces = [piece for piece in rows.tensor_split(accumulation) if len(piece)]
    targets = [{name: one.to(device) for name, one in examples.batch_targets(piece).items()} for piece in pieces]
    parts = [{name: denominator_of(tasks[name], one, device) for name, one in of_piece.items()} for of_piece in targets]
    denominators = {name: sum(part.get(name, 0.0) for part in parts) for name in tasks}
    sums = dict.fromkeys(tasks, 0.0)
    for number, piece in enumerate(pieces):
        batch = examples.batch(piece)
        with accelerator.no_sync(model) if number < len(pieces) - 1 else nullcontext():
            outputs = model(batch.hidden.to(device), batch.mask.to(device), batch.inputs)
            losses = {
                name: part / denominators[name] * tasks[name].loss(outputs[name], targets[number][name])
                for name, part in parts[number].items()
                if part
            }
            if losses:
                accelerator.backward(sum(loss_weights[name] * loss for name, loss in losses.items()))
        for name, loss in losses.items():
            sums[name] += loss.item()
    return sums, denominators


def measure_epoch(
    model: MultiTaskModel,
    losses: Mapping[str, float],
    data: Mapping[SplitName, Examples],
    loss_weights: Mapping[str, float],
    *,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the training losses and, where there are validation rows, all that is measured on them.

    What could not be measured is NaN, and returned a second time with the reason.
    """
    failures: dict[str, str] = {}
    metrics = {f"training/{name}/loss": loss for name, loss in losses.items()}
    metrics["training/loss"] = total_loss(metrics, "training", loss_weights)
    if "validation" in data:
        examples = data["validation"]
        outputs = outputs_of(model, examples, device=device)
        values, failures = measure(model.tasks, outputs, examples.labelled_targets(), device=device)
        metrics |= {f"validation/{name}": value for name, value in values.items()}
        metrics["validation/loss"] = total_loss(metrics, "validation", loss_weights)
    return metrics, failures


def total_loss(metrics: Mapping[str, float], split: str, loss_weights: Mapping[str, float]) -> float:
    """Add up the losses of the tasks that were measured, by their weights."""
    losses = {task: metrics[name] for task in loss_weights if (name := f"{split}/{task}/loss") in metrics}
    return sum(loss_weights[task] * loss for task, loss in losses.items())


def row_order(source_sizes: Sequence[int], settings: Training, epoch: int) -> Int[Tensor, " N"]:
    """Return the order (N,) in which an epoch takes the rows of all sources, from the seed and the epoch alone.

    Each source has in any stretch about the share of rows that it has in all: without shuffling, the rows of each are
    spread evenly over the epoch, in the order of the file.
    """
    if settings.shuffle:
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "order", str(epoch)))
        return torch.randperm(sum(source_sizes), generator=generator)
    places = torch.cat([(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in source_sizes])
    return places.argsort(stable=True)


class NotFiniteError(Exception):
    """A loss or a weight is not finite.

    Attributes:
        values: losses by name, of which some are not finite; none where it is a weight.
        step: of the epoch, from 1.
    """

    def __init__(self, values: Mapping[str, float], step: int) -> None:
        super().__init__()
        self.values = {name: value for name, value in values.items() if not math.isfinite(value)}
        self.step = step


def check_finite(model: MultiTaskModel, metrics: Mapping[str, float], *, step: int) -> None:
    """Check losses and trainable weights after the last ``step`` of an epoch.

    Raises:
        NotFiniteError: one is not finite.
    """
    losses = {name: value for name, value in metrics.items() if name.endswith("/loss")}
    # The sum of finite numbers is nearly always finite, and three times quicker than a look at each.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights_are_finite = all(bool(p.sum().isfinite()) or bool(p.isfinite().all()) for p in trainable)
    if not weights_are_finite or not all(map(math.isfinite, losses.values())):
        raise NotFiniteError(losses, step)


def divergence_error(
    error: NotFiniteError, epoch: int, optimizer: torch.optim.Optimizer, best_epoch: int
) -> TrainingError:
    """Say what is not finite, when, and at which rates."""
    wrong = ", ".join(f"{name} is {value}" for name, value in error.values.items()) or "a weight is not finite"
    rates = ", ".join(f"{group['name']} {group['lr']:g}" for group in optimizer.param_groups)
    kept = f"the weights of epoch {best_epoch} are kept"
    if not best_epoch:
        kept = "no epoch was finished, so no weights are kept"
    return TrainingError(
        f"training diverged in epoch {epoch}, step {error.step}: {wrong}; learning rates: {rates}; "
        f"try lower rates or training.clip_norm; {kept}",
        kept_epoch=best_epoch,
    )
