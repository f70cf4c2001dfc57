"""Build the model of an experiment, without its rows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from topwork.engine.model.building import build_backbone, build_model
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.prefix import run_stages
from topwork.experiment.schema import Experiment
from topwork.interfaces.labels import Classes


def model_of(experiment: Experiment, labels: Mapping[str, Classes]) -> MultiTaskModel:
    """Build backbone, pooling and heads as ``prepare`` does."""
    seed, origin = experiment.training.seed, experiment.origin
    heads = {name: task.head for name, task in experiment.tasks.items()}
    backbone = build_backbone(experiment.backbone, seed=seed, origin=origin)
    return build_model(backbone, experiment.pooling, heads, labels, seed=seed, origin=origin)


def pooled_by_whole(model: MultiTaskModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Pooled vectors, computed from the hidden states after every stage."""
    stages = model.backbone.stages()
    states = run_stages(stages, ids, mask, range(len(stages) + 1))
    if not model.layer_ends:
        return model.pooling(states[len(stages)], mask)
    return model.pooling.combine(torch.stack([model.pooling(states[end], mask) for end in model.layer_ends], dim=1))
