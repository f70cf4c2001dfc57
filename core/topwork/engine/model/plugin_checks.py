"""Hold plugins to their interfaces where they are used, and say whose mistake a failure is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from topwork.engine.model.multitask import tensors_of
from topwork.errors import ConfigurationError, PluginError, TopworkError, describe, text_of
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.head import Classes, Head
from topwork.interfaces.plugin import PluginConfig
from topwork.interfaces.pooling import Pooling

#: What MLflow takes as part of a metric's name.
METRIC_NAME = r"[\w. -]+"


@contextmanager
def plugin_errors(config: PluginConfig, where: str) -> Iterator[None]:
    """Say where a plugin's settings stand when it fails: a ValueError is the researcher's, anything else the plugin's.

    Raises:
        ConfigurationError: a setting does not fit.
        PluginError: the plugin breaks its interface, or fails.
        TopworkError: any other that the plugin raises, with ``where`` before it.
    """
    try:
        yield
    except TopworkError as error:
        error.located(where)
        raise
    except ValueError as error:
        raise ConfigurationError(text_of(error)).located(where) from error
    except Exception as error:  # a plugin may raise anything
        plugin = f"plugin {config.kind!r} of {type(config).__module__}"
        raise PluginError(f"{plugin} failed: {describe(error)}").located(where) from error


def check_built(built: object, expected: type) -> None:
    """Check what a config's ``build`` gave.

    Raises:
        PluginError: it is of another type.
    """
    if not isinstance(built, expected):
        raise PluginError(f"build must give a {expected.__name__}, got {built!r:.60}")


@torch.no_grad()
def check_pooling(pooling: Pooling, width: int) -> None:
    """Try a pooling on two texts of three tokens.

    Raises:
        PluginError: the result is not as wide as it says.
    """
    shape = pooling.eval()(torch.zeros(2, 3, width), torch.ones(2, 3, dtype=torch.bool)).shape
    if shape != (2, pooling.width):
        raise PluginError(
            f"a pooling of width {pooling.width} must give (2, {pooling.width}) for 2 texts, got {tuple(shape)}"
        )


@torch.no_grad()
def check_head(head: Head, width: int, labels: Classes) -> None:
    """Try a head on two texts.

    Raises:
        PluginError: outputs, loss, decoding or metric names are not what ``Head`` says.
    """
    outputs = head.module.eval()(torch.zeros(2, width))
    loss = head.loss(outputs, torch.tensor([0, 1]))
    decoded = head.decode(outputs)
    names = [metric.name for metric in head.metrics]
    wrong_names = [
        name for name in names if name == "loss" or not re.fullmatch(METRIC_NAME, name) or names.count(name) > 1
    ]
    figures = [figure.name for figure in head.figures]
    errors = {
        f"the module must give (2, C) for 2 texts, got {tuple(outputs.shape)}": outputs.ndim != 2 or len(outputs) != 2,
        f"the loss must be one number, got shape {tuple(loss.shape)}": loss.shape != (),
        f"decode must give 2 labels for 2 texts, got {len(decoded.labels)}": len(decoded.labels) != 2,
        f"decode must give probabilities (2, {len(labels.names)}), got {tuple(decoded.probabilities.shape)}": (
            decoded.probabilities.shape != (2, len(labels.names))
        ),
        "metric names must differ, must not be `loss`, and have letters, digits, _ - . and spaces only, "
        f"got {', '.join(wrong_names)}": bool(wrong_names),
        f"figure names must differ and have letters, digits, _ and - only, got {', '.join(figures)}": (
            len(set(figures)) < len(figures) or not all(re.fullmatch(r"[\w-]+", name) for name in figures)
        ),
    }
    messages = [error for error, holds in errors.items() if holds]
    if messages:
        raise PluginError("\n".join(messages))


def check_stages(backbone: Backbone, kind: str) -> None:
    """Check that each parameter and each buffer belongs to exactly one stage.

    Raises:
        PluginError: names those that do not.
    """
    owners: dict[int, list[str]] = {}
    for stage in backbone.stages():
        tensors = [tensor for module in stage.modules for _, tensor in tensors_of(module)]
        for identity in {id(tensor) for tensor in tensors}:
            owners.setdefault(identity, []).append(stage.name)
    wrong = [name for name, tensor in tensors_of(backbone) if len(owners.get(id(tensor), [])) != 1]
    if wrong:
        raise PluginError(
            f"backbone {kind!r}: each parameter and buffer must belong to exactly one stage, "
            f"but these do not: {', '.join(wrong)}"
        )
