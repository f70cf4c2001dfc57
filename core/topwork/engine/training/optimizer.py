"""The optimizer with the plan's parameter groups, and the schedule of its learning rates."""

import math
from inspect import signature
from typing import Any

import torch

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import WEIGHTING_GROUP, Phase
from topwork.engine.training.step import Weighting
from topwork.errors import ConfigurationError, did_you_mean, enumerate_names, first_line
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Training

#: What torch's optimizers take that does not change what is computed, and what the groups say.
_NOT_OPTIONS = ("self", "params", "lr", "weight_decay", "foreach", "fused", "maximize", "capturable", "differentiable")


def make_optimizer(
    model: MultiTaskModel, weighting: Weighting, phase: Phase, settings: Training
) -> torch.optim.Optimizer:
    """Build the optimizer of the settings with a phase's groups; all else as torch has it by default."""
    return _build(parameter_groups(model, weighting, phase), settings)


def check_optimizer(settings: Training, *, origin: Origin) -> None:
    """Check the options of the optimizer against its constructor.

    Raises:
        ConfigurationError: it has no such option, or refuses the value; says where in ``origin`` it stands.
    """
    where, kind = origin.locate("training", "optimizer_options"), settings.optimizer
    known = [name for name in signature(getattr(torch.optim, kind)).parameters if name not in _NOT_OPTIONS]
    of_groups = [
        f"{where}: {name} is a setting of the groups; give it in {origin.locate('optimizer')}"
        for name in ("lr", "weight_decay")
        if name in settings.optimizer_options
    ]
    unknown = [
        f"{where}: {kind} has no option {name!r}, only {enumerate_names(known)}{did_you_mean(name, known)}"
        for name in settings.optimizer_options
        if name not in (*known, "lr", "weight_decay")
    ]
    if wrong := [*of_groups, *unknown]:
        raise ConfigurationError("\n".join(wrong))
    try:
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        weight.grad = torch.ones_like(weight)
        _build([{"params": [weight]}], settings).step()
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise ConfigurationError(f"{where}: {kind} refuses its options: {first_line(error)}") from None


def _build(groups: list[dict[str, Any]], settings: Training) -> torch.optim.Optimizer:
    # One fused kernel for all parameters: after encoding, the optimizer's memory traffic is most of a step.
    fused = {"fused": True} if settings.optimizer in ("Adam", "AdamW", "SGD") else {}
    built: torch.optim.Optimizer = getattr(torch.optim, settings.optimizer)(
        groups, **settings.optimizer_options, **fused
    )
    return built


def start_phase(phase: Phase, model: MultiTaskModel, weighting: Weighting, optimizer: Any) -> None:
    """Freeze and unfreeze what the phase says, and with it move the cut. What trains on keeps its moments."""
    optimizer.zero_grad(set_to_none=True)  # what freezes now must not count in the norm that is clipped
    model.set_trainable(phase.unfrozen)
    optimizer.param_groups.clear()
    for group in parameter_groups(model, weighting, phase):
        optimizer.add_param_group(group)


def parameter_groups(model: MultiTaskModel, weighting: Weighting, phase: Phase) -> list[dict[str, Any]]:
    """Return a phase's groups as torch wants them."""
    parameters = dict(model.named_parameters())
    parameters |= {f"{WEIGHTING_GROUP}.{name}": parameter for name, parameter in weighting.named_parameters()}
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


def set_learning_rates(optimizer: Any, settings: Training, step: int, steps: int) -> dict[str, float]:
    """Set each group's learning rate for ``step`` (from 0) of ``steps`` and return the rates by group."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * schedule_factor(settings, step, steps)
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def schedule_factor(settings: Training, step: int, steps: int) -> float:
    """What all rates are multiplied with: up to 1 over the warm-up steps, then as the schedule says.

    The formulas are those of transformers' schedulers of the same names.
    """
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    match settings.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - done
        case "polynomial":
            return math.pow(1 - done, settings.power)
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "cosine_restarts":
            return (1 + math.cos(math.pi * (settings.cycles * done % 1))) / 2
        case "inverse_sqrt":
            return math.sqrt(max(1, warmup) / max(1, step))
