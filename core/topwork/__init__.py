"""Topwork trains many task heads on one pretrained text encoder and computes its frozen part once.

The names below are the public ones, for plugin authors and for scripts. They are imported when first used,
so that ``import topwork`` itself is quick and loads neither torch nor mlflow.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topwork.engine.trained_model import TrainedModel as TrainedModel
    from topwork.engine.trained_model import load_model as load_model
    from topwork.errors import ConfigurationError as ConfigurationError
    from topwork.errors import DataError as DataError
    from topwork.errors import PluginError as PluginError
    from topwork.errors import StorageError as StorageError
    from topwork.errors import StudyError as StudyError
    from topwork.errors import TopworkError as TopworkError
    from topwork.errors import TrainingError as TrainingError
    from topwork.errors import did_you_mean as did_you_mean
    from topwork.experiment.loading import load_experiment as load_experiment
    from topwork.experiment.schema import Experiment as Experiment
    from topwork.interfaces.backbone import Backbone as Backbone
    from topwork.interfaces.backbone import BackboneConfig as BackboneConfig
    from topwork.interfaces.backbone import Stage as Stage
    from topwork.interfaces.freeze_strategy import FreezeStrategyConfig as FreezeStrategyConfig
    from topwork.interfaces.head import Classes as Classes
    from topwork.interfaces.head import Decoded as Decoded
    from topwork.interfaces.head import Head as Head
    from topwork.interfaces.head import HeadConfig as HeadConfig
    from topwork.interfaces.head import Metric as Metric
    from topwork.interfaces.hookspecs import Register as Register
    from topwork.interfaces.hookspecs import hookimpl as hookimpl
    from topwork.interfaces.model import Model as Model
    from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig as OptimizerGroupingConfig
    from topwork.interfaces.optimizer_grouping import ParameterGroup as ParameterGroup
    from topwork.interfaces.plugin import Count as Count
    from topwork.interfaces.plugin import PluginConfig as PluginConfig
    from topwork.interfaces.plugin import Rate as Rate
    from topwork.interfaces.pooling import Pooling as Pooling
    from topwork.interfaces.pooling import PoolingConfig as PoolingConfig
    from topwork.lab.comparison import compare as compare
    from topwork.lab.runs import train as train
    from topwork.lab.study.conduct import study as study
    from topwork.parts import Activation as Activation
    from topwork.parts import class_metrics as class_metrics
    from topwork.parts import decode_logits as decode_logits
    from topwork.parts import macro_f1 as macro_f1
    from topwork.parts import mlp as mlp
    from topwork.parts import rowwise as rowwise
    from topwork.registry import Registry as Registry
    from topwork.registry import discover as discover

_ROOMS = {
    "engine.trained_model": ("TrainedModel", "load_model"),
    "errors": (
        "ConfigurationError",
        "DataError",
        "PluginError",
        "StorageError",
        "StudyError",
        "TopworkError",
        "TrainingError",
        "did_you_mean",
    ),
    "experiment.loading": ("load_experiment",),
    "experiment.schema": ("Experiment",),
    "interfaces.backbone": ("Backbone", "BackboneConfig", "Stage"),
    "interfaces.freeze_strategy": ("FreezeStrategyConfig",),
    "interfaces.head": ("Classes", "Decoded", "Head", "HeadConfig", "Metric"),
    "interfaces.hookspecs": ("Register", "hookimpl"),
    "interfaces.model": ("Model",),
    "interfaces.optimizer_grouping": ("OptimizerGroupingConfig", "ParameterGroup"),
    "interfaces.plugin": ("Count", "PluginConfig", "Rate"),
    "interfaces.pooling": ("Pooling", "PoolingConfig"),
    "lab.comparison": ("compare",),
    "lab.runs": ("train",),
    "lab.study.conduct": ("study",),
    "parts": ("Activation", "class_metrics", "decode_logits", "macro_f1", "mlp", "rowwise"),
    "registry": ("Registry", "discover"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605  (a list of strings, which the linter cannot see)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'topwork' has no attribute {name!r}")
    return getattr(importlib.import_module(f"topwork.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
