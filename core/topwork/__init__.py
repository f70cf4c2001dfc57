"""Topwork trains many task heads on one pretrained text encoder and computes its frozen part once.

The names below are the public ones, for plugin authors and for scripts. They are imported when first used,
so that ``import topwork`` itself is quick and loads neither torch nor mlflow.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topwork.building_blocks import Activation as Activation
    from topwork.building_blocks import class_metrics as class_metrics
    from topwork.building_blocks import decode_logits as decode_logits
    from topwork.building_blocks import macro_f1 as macro_f1
    from topwork.building_blocks import mlp as mlp
    from topwork.building_blocks import rowwise as rowwise
    from topwork.confusion import confusion_figure as confusion_figure
    from topwork.engine.model_folder import load_model as load_model
    from topwork.engine.observer import EncodingReport as EncodingReport
    from topwork.engine.observer import Epoch as Epoch
    from topwork.engine.observer import Observer as Observer
    from topwork.engine.observer import TrainingStep as TrainingStep
    from topwork.engine.trained_model import TrainedModel as TrainedModel
    from topwork.errors import ConfigurationError as ConfigurationError
    from topwork.errors import DataError as DataError
    from topwork.errors import PluginError as PluginError
    from topwork.errors import StorageError as StorageError
    from topwork.errors import StudyError as StudyError
    from topwork.errors import TopworkError as TopworkError
    from topwork.errors import TrainingError as TrainingError
    from topwork.errors import did_you_mean as did_you_mean
    from topwork.errors import first_line as first_line
    from topwork.experiment.loading import load_experiment as load_experiment
    from topwork.experiment.schema import Experiment as Experiment
    from topwork.experiment.schema import Task as Task
    from topwork.experiment.schema import Tracking as Tracking
    from topwork.experiment.schema import Training as Training
    from topwork.experiment.source import Source as Source
    from topwork.experiment.source import Split as Split
    from topwork.interfaces.backbone import Backbone as Backbone
    from topwork.interfaces.backbone import BackboneConfig as BackboneConfig
    from topwork.interfaces.backbone import Stage as Stage
    from topwork.interfaces.freeze_strategy import FreezeStrategyConfig as FreezeStrategyConfig
    from topwork.interfaces.head import Decoded as Decoded
    from topwork.interfaces.head import Head as Head
    from topwork.interfaces.head import HeadConfig as HeadConfig
    from topwork.interfaces.head import HeadFigure as HeadFigure
    from topwork.interfaces.head import Label as Label
    from topwork.interfaces.head import Metric as Metric
    from topwork.interfaces.head import Reading as Reading
    from topwork.interfaces.head import WeightedMetric as WeightedMetric
    from topwork.interfaces.hookspecs import Register as Register
    from topwork.interfaces.hookspecs import hookimpl as hookimpl
    from topwork.interfaces.labels import NO_LABEL as NO_LABEL
    from topwork.interfaces.labels import Classes as Classes
    from topwork.interfaces.labels import Distribution as Distribution
    from topwork.interfaces.labels import LabelSet as LabelSet
    from topwork.interfaces.labels import LabelSpace as LabelSpace
    from topwork.interfaces.labels import Numbers as Numbers
    from topwork.interfaces.labels import WordLabels as WordLabels
    from topwork.interfaces.loss_weighting import FactorsFrom as FactorsFrom
    from topwork.interfaces.loss_weighting import GradientWeighting as GradientWeighting
    from topwork.interfaces.loss_weighting import LossWeighting as LossWeighting
    from topwork.interfaces.loss_weighting import LossWeightingConfig as LossWeightingConfig
    from topwork.interfaces.model import Model as Model
    from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig as OptimizerGroupingConfig
    from topwork.interfaces.optimizer_grouping import ParameterGroup as ParameterGroup
    from topwork.interfaces.plugin import Count as Count
    from topwork.interfaces.plugin import PluginConfig as PluginConfig
    from topwork.interfaces.plugin import Rate as Rate
    from topwork.interfaces.pooling import Layer as Layer
    from topwork.interfaces.pooling import Pooling as Pooling
    from topwork.interfaces.pooling import PoolingConfig as PoolingConfig
    from topwork.interfaces.sampler import SamplerConfig as SamplerConfig
    from topwork.lab.comparison import compare as compare
    from topwork.lab.encode_corpus import StoredCorpus as StoredCorpus
    from topwork.lab.encode_corpus import encode_corpus as encode_corpus
    from topwork.lab.runs import plan as plan
    from topwork.lab.runs import resume as resume
    from topwork.lab.runs import train as train
    from topwork.lab.runs import train_seeds as train_seeds
    from topwork.lab.study.probe import probe as probe
    from topwork.lab.study.run_study import study as study
    from topwork.lab.study.transfer import transfer as transfer
    from topwork.lab.tracking.sync import sync as sync
    from topwork.per_class import per_class_figure as per_class_figure
    from topwork.per_class import per_label_figure as per_label_figure
    from topwork.quiet import quiet_transformers as quiet_transformers
    from topwork.registry import Registry as Registry
    from topwork.registry import discover as discover
    from topwork.scatter import number_metrics as number_metrics
    from topwork.scatter import scatter_figure as scatter_figure
    from topwork.words import decode_words as decode_words
    from topwork.words import word_figures as word_figures
    from topwork.words import word_metrics as word_metrics

_MODULES = {
    "building_blocks": (
        "Activation",
        "class_metrics",
        "decode_logits",
        "macro_f1",
        "mlp",
        "rowwise",
    ),
    "confusion": ("confusion_figure",),
    "engine.model_folder": ("load_model",),
    "engine.observer": ("EncodingReport", "Epoch", "Observer", "TrainingStep"),
    "engine.trained_model": ("TrainedModel",),
    "errors": (
        "ConfigurationError",
        "DataError",
        "PluginError",
        "StorageError",
        "StudyError",
        "TopworkError",
        "TrainingError",
        "did_you_mean",
        "first_line",
    ),
    "experiment.loading": ("load_experiment",),
    "experiment.schema": ("Experiment", "Task", "Tracking", "Training"),
    "experiment.source": ("Source", "Split"),
    "interfaces.backbone": ("Backbone", "BackboneConfig", "Stage"),
    "interfaces.freeze_strategy": ("FreezeStrategyConfig",),
    "interfaces.head": (
        "Decoded",
        "Head",
        "HeadConfig",
        "HeadFigure",
        "Label",
        "Metric",
        "Reading",
        "WeightedMetric",
    ),
    "interfaces.hookspecs": ("Register", "hookimpl"),
    "interfaces.labels": ("NO_LABEL", "Classes", "Distribution", "LabelSet", "LabelSpace", "Numbers", "WordLabels"),
    "interfaces.loss_weighting": ("FactorsFrom", "GradientWeighting", "LossWeighting", "LossWeightingConfig"),
    "interfaces.model": ("Model",),
    "interfaces.optimizer_grouping": ("OptimizerGroupingConfig", "ParameterGroup"),
    "interfaces.plugin": ("Count", "PluginConfig", "Rate"),
    "interfaces.pooling": ("Layer", "Pooling", "PoolingConfig"),
    "interfaces.sampler": ("SamplerConfig",),
    "lab.comparison": ("compare",),
    "lab.encode_corpus": ("StoredCorpus", "encode_corpus"),
    "lab.runs": ("plan", "resume", "train", "train_seeds"),
    "lab.study.probe": ("probe",),
    "lab.study.run_study": ("study",),
    "lab.study.transfer": ("transfer",),
    "lab.tracking.sync": ("sync",),
    "scatter": ("number_metrics", "scatter_figure"),
    "per_class": ("per_class_figure", "per_label_figure"),
    "quiet": ("quiet_transformers",),
    "registry": ("Registry", "discover"),
    "words": ("decode_words", "word_figures", "word_metrics"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605  (a list of strings, which the linter cannot see)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'topwork' has no attribute {name!r}")
    return getattr(importlib.import_module(f"topwork.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
