"""The training loop."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor

from topwork.engine.data_parallel import Processes, processes_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import measure, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.parallel_checks import draws_dropout
from topwork.engine.model.plan import Phase, Plan
from topwork.engine.model.plugin_checks import is_out_of_memory
from topwork.engine.model.seeding import derive_seed, seeded
from topwork.engine.observer import Epoch, Observer, TrainingStep
from topwork.engine.training.accelerator import unwrap, wrap
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.gradients import GradientStatistics, chosen_batches
from topwork.engine.training.optimizer import make_optimizer, set_learning_rates, start_phase
from topwork.engine.training.sampling import Sampling
from topwork.engine.training.state import TrainingState
from topwork.engine.training.step import JointLoss, Weighting
from topwork.engine.training.stopping import Stopping
from topwork.errors import ResourceError, TrainingError, describe
from topwork.experiment.schema import Training
from topwork.experiment.source import SplitName
from topwork.interfaces.loss_weighting import LossWeighting

#: Returns the examples of each split for a phase. The model is already cut as that phase says.
LoadExamples = Callable[[Phase], Mapping[SplitName, Examples]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The outcome of training.

    Attributes:
        epochs: what each gave.
        best_epoch: whose weights the model has; with ``training.stop: per_task`` what is not a head's.
        best_epochs: of each task, whose weights its head has.
        metrics: of these weights; training losses only where all are of one epoch.
        data: the examples of each split, for the cut of that epoch.
        notes: what the researcher should know.
    """

    epochs: list[Epoch]
    best_epoch: int
    best_epochs: dict[str, int]
    metrics: dict[str, float]
    data: Mapping[SplitName, Examples]
    notes: list[str]


def fit(
    model: MultiTaskModel,
    plan: Plan,
    load_examples: LoadExamples,
    settings: Training,
    sampling: Sampling,
    weighting: Weighting,
    loss_weights: Mapping[str, float],
    stopping: Stopping,
    checkpoints: Checkpoints,
    *,
    accelerator: Accelerator,
    observer: Observer,
) -> Fit:
    """Train what the plan says, measuring after each epoch; where there is a checkpoint, go on from it.

    Where ``accelerator`` found several processes, all of them must call this with the same model, plan and settings:
    each computes its share of every batch, and all get the same weights. What the main one's ``observer`` and
    ``checkpoints`` say holds for all.

    Args:
        load_examples: gives the examples of each phase.
        sampling: what each epoch takes of each source.
        weighting: what makes one total of the losses, or one gradient of theirs.
        loss_weights: the factor of each task's loss before the weighting.
        stopping: when to stop, and which epoch is the best.
        checkpoints: where the training is written down.

    Raises:
        TrainingError: a loss or weight is not finite, or a monitor never is a number; ``model`` is back at the best
            epoch so far.
        PluginError: a plugin fails.
        ResourceError: memory ran out.
        StorageError: the checkpoints cannot be read.
    """
    processes = processes_of(accelerator)
    state = TrainingState(model, plan.shapes.keys(), weighting, stopping, processes)
    if saved := checkpoints.load():
        state.load_progress(saved)
        observer.resumed(state.epochs, state.partial.steps)
    phase = plan.phase_of(len(state.epochs) if stopping.should_stop() else state.epoch)
    model.set_trainable(phase.unfrozen)
    data = load_examples(phase)
    wrapped, weighting = wrap(model, accelerator), weighting.to(accelerator.device)
    optimizer = state.optimizer = make_optimizer(model, weighting, phase, settings)
    if saved:
        state.load_moments(saved)
    observer.start(model)
    joint = JointLoss(wrapped, model, weighting, loss_weights, settings.accumulation, accelerator)
    checkpoints.start()

    def stop_reason() -> str:
        return str(processes.told_by_main(observer.stop_reason if state.epochs else ""))

    while state.epoch <= settings.epochs and not stopping.should_stop() and not stop_reason():
        if (now := plan.phase_of(state.epoch)) != phase:  # other layers train from here on, so the cut moves
            phase = now
            start_phase(phase, model, weighting, optimizer)
            data = load_examples(phase)
            if processes.count > 1:  # what computes gradients together knows those that trained before
                unwrap(joint.wrapped, accelerator)
                joint = replace(joint, wrapped=wrap(model, accelerator))
        with checkpoints.stopping_after_steps():
            epoch, failures = run_epoch(joint, optimizer, data, settings, sampling, state, checkpoints, observer)
            if isinstance(weighting, LossWeighting):
                weighting.end_epoch(state.losses)
            observer.epoch(epoch)
            for name in failures.keys() - state.failing:  # each that fails is told once
                logger.warning("epoch %d: validation/%s is not a number: %s", epoch.number, name, failures[name])
            stopping.update(epoch, model)
            state.end_epoch(epoch, failures)
            checkpoints.epoch_done(state)

    stopping.restore(model)
    stopping.check_measured()
    if (best := plan.phase_of(stopping.best_epoch)) != phase:  # an earlier phase, with another cut or another prefix
        start_phase(best, model, weighting, optimizer)
        data = load_examples(best)
    fitted = finish(joint, stopping, state.epochs, data, stop_reason=stop_reason())
    observer.end(fitted.best_epoch, fitted.metrics)
    return fitted


def finish(
    joint: JointLoss,
    stopping: Stopping,
    epochs: list[Epoch],
    data: Mapping[SplitName, Examples],
    *,
    stop_reason: str,
) -> Fit:
    """Measure the weights that are kept, where they are of several epochs, and leave the model ready for use."""
    metrics = epochs[stopping.best_epoch - 1].metrics
    if set(stopping.best_epochs.values()) != {stopping.best_epoch}:
        metrics = measure_epoch(joint, {}, data)[0]
    unwrap(joint.wrapped, joint.accelerator)
    draws = draws_dropout(joint.model.train())
    joint.model.eval()
    tune_heads(joint.model, data, joint.processes, device=joint.accelerator.device)
    notes = stopping.drift(epochs, metrics)
    if draws and (count := joint.processes.count) > 1:
        notes.append(
            f"trained in {count} processes, of which each draws its own dropout; with another number of them it "
            "is another draw, as of another seed"
        )
    if stop_reason:
        notes.append(f"an observer ended training after epoch {len(epochs)}: {stop_reason}")
    return Fit(epochs, stopping.best_epoch, stopping.best_epochs, metrics, data, notes)


@torch.no_grad()
def tune_heads(
    model: MultiTaskModel, data: Mapping[SplitName, Examples], processes: Processes, *, device: torch.device
) -> None:
    """Let each head that wants to set what it reads off the validation rows, such as thresholds."""
    tuned = {name: tune for name, head in model.tasks.items() if (tune := head.tune)}
    if not tuned or "validation" not in data:
        return
    outputs = outputs_of(model, data["validation"], device=device, processes=processes)
    targets = data["validation"].labelled_targets()
    for name in tuned.keys() & outputs.keys():
        tuned[name](outputs[name], targets[name])


def run_epoch(
    joint: JointLoss,
    optimizer: torch.optim.Optimizer,
    data: Mapping[SplitName, Examples],
    settings: Training,
    sampling: Sampling,
    state: TrainingState,
    checkpoints: Checkpoints,
    observer: Observer,
) -> tuple[Epoch, dict[str, str]]:
    """Train the next epoch, or the rest of it, and measure; return what it gave, and why some metrics are no numbers.

    Raises:
        TrainingError: a loss or weight is not finite; the model is back at the best epoch so far.
        ResourceError: memory ran out.
    """
    steps, partial = sampling.steps(settings.batch_size), state.partial
    try:
        train_epoch(
            joint,
            optimizer,
            data["train"].of_tasks(state.stopping.training),
            sampling.batches_of(state.epoch, settings),
            settings,
            state,
            checkpoints,
            steps_before=sum(steps[: state.epoch - 1]),
            steps_in_all=sum(steps),
            observer=observer,
        )
        metrics, failures = measure_epoch(joint, state.losses, data)
        check_finite(joint.model, metrics, step=partial.steps)
    except NotFiniteError as error:
        state.stopping.restore(joint.model)
        raise divergence_error(error, state.epoch, optimizer, state.stopping.best_epoch) from None
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise memory_error(error, settings, state) from error
        raise
    return Epoch(state.epoch, metrics | partial.further, partial.rates, partial.rows / partial.seconds), failures


def train_epoch(
    joint: JointLoss,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    batches: Sequence[Int[Tensor, " _B"]],
    settings: Training,
    state: TrainingState,
    checkpoints: Checkpoints,
    *,
    steps_before: int,
    steps_in_all: int,
    observer: Observer,
) -> None:
    """Take a step for each batch, after those that are done of the epoch; ``state`` is what they give.

    Args:
        joint: the losses of the model's tasks, as they are to be made one.
        batches: the rows of each.
        steps_before, steps_in_all: of the whole training, for the schedule of learning rates.

    Raises:
        NotFiniteError: a loss, or the factor of one, is not finite.
    """
    epoch, partial = str(state.epoch), state.partial
    drawn_from = derive_seed(settings.seed, "gradients", epoch)
    compared = chosen_batches(settings.gradient_batches, len(batches), drawn_from)
    observer.begin(f"epoch {epoch}", len(batches))
    if partial.steps:
        observer.advance(partial.steps)
    joint.model.train()
    number_of_process = [f"process {joint.processes.number}"] if joint.processes.number else []
    with seeded(settings.seed, "dropout", epoch, *number_of_process):
        state.restore_random()
        for number, rows in enumerate(batches[partial.steps :], partial.steps + 1):
            started = perf_counter()
            optimizer.zero_grad(set_to_none=True)
            rates = set_learning_rates(optimizer, settings, steps_before + number - 1, steps_in_all)
            labelled = examples.with_labels(rows)
            if number in compared:
                GradientStatistics(partial.gradients).add(joint.gradients(examples, labelled))
            step = joint.backward(examples, labelled)
            values = step.losses | {f"weighting/{name}": factor for name, factor in step.factors.items()}
            if not all(map(math.isfinite, values.values())):
                raise NotFiniteError(values, number)
            if settings.clip_norm is not None:
                joint.accelerator.clip_grad_norm_(joint.wrapped.parameters(), settings.clip_norm)
            optimizer.step()
            joint.after_step(examples, labelled)
            partial.add(step, rows=len(labelled), rates=rates, seconds=perf_counter() - started)
            if observer.every_step:
                observer.step(TrainingStep(state.epoch, number, step.losses, rates))
            checkpoints.step_done(state)
            observer.advance(1)


def measure_epoch(
    joint: JointLoss, losses: Mapping[str, float], data: Mapping[SplitName, Examples]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the training losses and, where there are validation rows, all that is measured on them.

    The total of training losses is left out where a task had no rows, since it would fall by that task's loss alone.
    What could not be measured is NaN, and returned a second time with the reason.
    """
    failures: dict[str, str] = {}
    metrics = {f"training/{name}/loss": loss for name, loss in losses.items()}
    if losses.keys() == joint.model.tasks.keys():
        metrics["training/loss"] = joint.total(losses)
    if "validation" in data:
        examples, device, processes = data["validation"], joint.accelerator.device, joint.processes
        outputs = outputs_of(joint.model, examples, device=device, processes=processes)
        measured: tuple[dict[str, float], dict[str, str]] = {}, {}
        if processes.is_main:
            measured = measure(joint.model.tasks, outputs, examples.labelled_targets(), device=device)
        values, failures = processes.told_by_main(measured)
        metrics |= {f"validation/{name}": value for name, value in values.items()}
        if outputs:
            metrics["validation/loss"] = joint.total({name: values[f"{name}/loss"] for name in outputs})
    return metrics, failures


class NotFiniteError(Exception):
    """A loss, the factor of one, or a weight is not finite.

    Attributes:
        values: losses and factors by name, of which some are not finite; none where it is a weight.
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


def memory_error(error: Exception, settings: Training, state: TrainingState) -> ResourceError:
    """Say when memory ran out, for how many rows at once, and what needs less."""
    pieces = f" in {settings.accumulation} pieces" if settings.accumulation > 1 else ""
    return ResourceError(
        f"memory ran out in epoch {state.epoch} after {state.partial.steps} steps, with batches of "
        f"{settings.batch_size} rows{pieces}: {describe(error)}; free some, or train anew with more pieces "
        "(training.accumulation), smaller batches (training.batch_size) or shorter texts (backbone.max_length)"
    )
