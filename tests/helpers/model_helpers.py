"""Build the model of an experiment, without its rows."""

from collections.abc import Mapping

from topwork.engine.model.building import build_backbone, build_model
from topwork.engine.model.multitask import MultiTaskModel
from topwork.experiment.schema import Experiment
from topwork.interfaces.labels import Classes


def model_of(experiment: Experiment, labels: Mapping[str, Classes]) -> MultiTaskModel:
    """Build backbone, pooling and heads as ``prepare`` does."""
    seed, origin = experiment.training.seed, experiment.origin
    heads = {name: task.head for name, task in experiment.tasks.items()}
    backbone = build_backbone(experiment.backbone, seed=seed, origin=origin)
    return build_model(backbone, experiment.pooling, heads, labels, seed=seed, origin=origin)
