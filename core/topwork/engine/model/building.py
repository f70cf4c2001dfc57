"""Build a model from its plugins' settings."""

from collections.abc import Mapping
from functools import partial

from topwork.data.dataset import DataSplit
from topwork.engine.model.checked_head import check_types, checked_head
from topwork.engine.model.encoder_checks import (
    check_backbone,
    check_pooling,
    check_stages,
    passes_gradients,
    untrained_stages,
)
from topwork.engine.model.head_checks import check_figures, check_head, check_pieces
from topwork.engine.model.multitask import MultiTaskModel, head_width
from topwork.engine.model.plan import Plan
from topwork.engine.model.plugin_checks import check_built, check_state, plugin_errors
from topwork.engine.model.prefix import ends_of_layers
from topwork.engine.model.seeding import seeded
from topwork.errors import PluginError
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Training
from topwork.interfaces.backbone import Backbone, BackboneConfig, Precision
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import Head, HeadConfig, Reading
from topwork.interfaces.labels import LabelSpace
from topwork.interfaces.pooling import Pooling, PoolingConfig


def build_backbone(config: BackboneConfig, *, seed: int, origin: Origin) -> Backbone:
    """Load a backbone, from a seed of its own.

    Raises:
        ConfigurationError: its settings do not fit; says where in ``origin`` they stand.
        PluginError: the plugin breaks its interface.
    """
    with plugin_errors(config, origin.locate("backbone")), seeded(seed, "backbone"):
        backbone = config.build()
        check_built(backbone, Backbone)
        check_state(backbone)
        check_backbone(backbone)
    return backbone


def adapt_backbone(backbone: Backbone, freeze: FreezeStrategyConfig, *, seed: int, origin: Origin) -> None:
    """Let a freeze strategy add parameters to a backbone, from a seed of their own.

    Raises:
        ConfigurationError: its settings do not fit; says where in ``origin`` they stand.
        PluginError: a parameter belongs to no stage then.
    """
    with plugin_errors(freeze, origin.locate("freeze")), seeded(seed, "adapters"):
        freeze.adapt(backbone)
        if freeze.adapts_backbone:
            check_stages(backbone)


def build_head(config: HeadConfig, width: int, labels: LabelSpace, *, where: str) -> Head:
    """Build a head, and hold it to its interface from here on.

    Args:
        where: the place of its settings, with which errors begin.

    Raises:
        ConfigurationError: the labels do not fit it.
        PluginError: the plugin breaks its interface.
    """
    with plugin_errors(config, where):
        head = config.build(width, labels)
        check_built(head, Head)
        check_types(head)
        check_state(head.module)
    return checked_head(head, config, labels, where=where)


def build_model(
    backbone: Backbone,
    pooling: PoolingConfig,
    heads: Mapping[str, HeadConfig],
    labels: Mapping[str, LabelSpace],
    *,
    reads: Mapping[str, Reading] | None = None,
    precision: Precision = "float32",
    seed: int,
    origin: Origin,
) -> MultiTaskModel:
    """Build a pooling and a head for each task onto a backbone, each from a seed of its own.

    A head's initial weights depend on the seed and the task's name alone, not on the other tasks. Each head is built a
    second time to be tried, so that trying changes nothing.

    Args:
        heads: the settings of each task's head.
        labels: the label space of each task.
        reads: what heads read, also those of other tasks that the same texts are encoded for.
        precision: in which the stages left of the cut run.

    Raises:
        ConfigurationError: a plugin's settings do not fit; says where in ``origin`` they stand.
        PluginError: a plugin breaks its interface.
    """
    with plugin_errors(pooling, origin.locate("pooling")), seeded(seed, "pooling"):
        pool = pooling.build(backbone.width)
        check_built(pool, Pooling)
        check_state(pool)
        check_pooling(pool, backbone.width)
        ends_of_layers(backbone.stages(), pool.layers)  # which there must be
    built = {}
    for task, config in heads.items():
        where = origin.locate("tasks", task, "head")
        width = head_width(config.reads, backbone, pool)
        build = partial(build_head, config, width, labels[task], where=where)
        with seeded(seed, "head", task):
            built[task] = build()
        with seeded(seed, "head", task):
            check_head(built[task], build, config, width, labels[task], where=where)
    reads = reads or {task: config.reads for task, config in heads.items()}
    mixed_stages = None if precision == "bfloat16" else 0
    return MultiTaskModel(backbone, pool, built, reads, mixed_stages=mixed_stages)


def check_gradients(
    model: MultiTaskModel, plan: Plan, backbone: BackboneConfig, pooling: PoolingConfig, *, origin: Origin
) -> None:
    """Check that what the plan says of the backbone can train.

    Raises:
        PluginError: the pooling or a stage passes no gradient on.
    """
    if not any(name.startswith("backbone.") for name in plan.shapes):
        return
    with plugin_errors(pooling, origin.locate("pooling")), seeded(0, "trying"):
        if not passes_gradients(model.pooling, model.backbone.width):
            raise PluginError(
                "no gradient passes through it, so that the backbone would not be trained; set freeze: all"
            )
    with plugin_errors(backbone, origin.locate("backbone")):
        untrained = untrained_stages(model, plan.shapes)
        model.set_trainable(plan.phases[0].unfrozen)
        if untrained:
            raise PluginError(f"no gradient reaches stage {', '.join(untrained[:3])}, which the plan says trains")


def check_training(
    heads: Mapping[str, HeadConfig],
    model: MultiTaskModel,
    labels: Mapping[str, LabelSpace],
    settings: Training,
    *,
    rows: DataSplit,
    processes: int = 1,
    origin: Origin,
) -> None:
    """Try each head on the pieces that the training rows are going to be divided into.

    Args:
        processes: of which each computes its share of every piece.

    Raises:
        PluginError: one cannot be trained on them.
    """
    for task, config in heads.items():
        where = origin.locate("tasks", task, "head")
        width = head_width(config.reads, model.backbone, model.pooling)
        build = partial(build_head, config, width, labels[task], where=where)
        with seeded(settings.seed, "head", task):
            check_pieces(
                build,
                config,
                width,
                labels[task],
                rows=len(rows.texts),
                labelled=rows.labelled_counts[task],
                batch_size=settings.batch_size,
                accumulation=settings.accumulation * processes,
                where=where,
            )


def check_all_figures(
    heads: Mapping[str, HeadConfig],
    model: MultiTaskModel,
    labels: Mapping[str, LabelSpace],
    *,
    seed: int,
    origin: Origin,
) -> None:
    """Draw the figures of each head for texts of every class.

    Raises:
        PluginError: one cannot be drawn.
    """
    for task, config in heads.items():
        where = origin.locate("tasks", task, "head")
        width = head_width(config.reads, model.backbone, model.pooling)
        build = partial(build_head, config, width, labels[task], where=where)
        with seeded(seed, "head", task):
            check_figures(build, config, width, labels[task])
