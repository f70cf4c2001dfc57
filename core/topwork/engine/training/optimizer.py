"""AdamW with the plan's parameter groups, and the schedule of its learning rates."""

import math
from typing import Any

import torch

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import WEIGHTING_GROUP, Phase
from topwork.engine.training.step import Weighting
from topwork.experiment.schema import Training


def make_optimizer(model: MultiTaskModel, weighting: Weighting, phase: Phase) -> torch.optim.AdamW:
    """Build AdamW with a phase's groups; all else as torch has it by default."""
    # One fused kernel for all parameters: after encoding, the optimizer's memory traffic is most of a step.
    return torch.optim.AdamW(parameter_groups(model, weighting, phase), fused=True)


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
    """What all rates are multiplied with: up to 1 over the warm-up steps, then as the schedule says, to 0."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
