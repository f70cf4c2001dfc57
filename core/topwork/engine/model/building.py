"""Build a model from its plugins' settings."""

from collections.abc import Mapping

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plugin_checks import check_built, check_head, check_pooling, check_stages, plugin_errors
from topwork.engine.model.seeding import seeded
from topwork.experiment.origin import Origin
from topwork.interfaces.backbone import Backbone, BackboneConfig
from topwork.interfaces.head import Classes, Head, HeadConfig
from topwork.interfaces.pooling import Pooling, PoolingConfig


def build_backbone(config: BackboneConfig, *, seed: int, origin: Origin) -> Backbone:
    """Load a backbone, from a seed of its own.

    Raises:
        ConfigurationError: its settings do not fit; says where in ``origin`` they stand.
    """
    with plugin_errors(config, origin.locate("backbone")), seeded(seed, "backbone"):
        backbone = config.build()
        check_built(backbone, Backbone)
        check_stages(backbone, config.kind)
    return backbone


def build_model(
    backbone: Backbone,
    pooling: PoolingConfig,
    heads: Mapping[str, HeadConfig],
    labels: Mapping[str, Classes],
    *,
    seed: int,
    origin: Origin,
) -> MultiTaskModel:
    """Build a pooling and a head for each task onto a backbone, each from a seed of its own.

    A head's initial weights depend on the seed and the task's name alone, not on the other tasks.

    Args:
        heads: the settings of each task's head.
        labels: the label space of each task.

    Raises:
        ConfigurationError: a plugin's settings do not fit; says where in ``origin`` they stand.
    """
    with plugin_errors(pooling, origin.locate("pooling")), seeded(seed, "pooling"):
        pool = pooling.build(backbone.width)
        check_built(pool, Pooling)
        check_pooling(pool, backbone.width)
    built = {}
    for task, config in heads.items():
        where = origin.locate("tasks", task, "head")
        with plugin_errors(config, where), seeded(seed, "head", task):
            built[task] = config.build(pool.width, labels[task])
            check_built(built[task], Head)
            check_head(built[task], pool.width, labels[task])
    return MultiTaskModel(backbone, pool, built)
