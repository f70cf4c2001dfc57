"""The losses of a model's tasks, made one as an experiment's would be."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.preparation import Preparation
from topwork.engine.training.step import JointLoss
from topwork.interfaces.loss_weighting import LossWeightingConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig


def joint_of(
    model: MultiTaskModel,
    weights: Mapping[str, float] | None = None,
    accumulation: int = 1,
    config: LossWeightingConfig | None = None,
    **others: Any,
) -> JointLoss:
    """The joint loss of a model on the CPU; without ``config`` a weighted sum."""
    tasks = list(model.tasks)
    weighting = (config or FixedConfig()).build(tasks)
    accelerator = others.get("accelerator") or Accelerator(cpu=True)
    return JointLoss(model, model, weighting, weights or dict.fromkeys(tasks, 1.0), accumulation, accelerator)


def joint_of_experiment(prepared: Preparation) -> JointLoss:
    """The joint loss of an experiment on the CPU."""
    experiment = prepared.experiment
    return JointLoss(
        prepared.model,
        prepared.model,
        prepared.weighting,
        experiment.loss_weights,
        experiment.training.accumulation,
        Accelerator(cpu=True),
    )
