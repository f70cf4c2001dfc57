"""Hold plugins to their interfaces where they are used, and say whose fault a failure is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from topwork.errors import ConfigurationError, PluginError, TopworkError
from topwork.experiment.schema import Experiment
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.head import Classes, Head
from topwork.interfaces.pooling import Pooling

#: What MLflow takes as part of a metric's name.
METRIC_NAME = r"[\w. -]+"


@contextmanager
def blame(experiment: Experiment, *path: str) -> Iterator[None]:
    """Say where a plugin's settings stand when it fails: a ValueError is the researcher's, anything else the plugin's.

    Raises:
        ConfigurationError: a setting does not fit.
        PluginError: the plugin breaks its interface, or fails.
    """
    where = experiment.origin.locate(*path)
    try:
        yield
    except TopworkError as fault:
        raise type(fault)("\n".join(f"{where}: {line}" for line in str(fault).splitlines())) from fault.__cause__
    except ValueError as fault:
        raise ConfigurationError("\n".join(f"{where}: {line}" for line in str(fault).splitlines())) from fault
    except Exception as fault:  # a plugin may raise anything
        settings = experiment.tasks[path[1]].head if path[0] == "tasks" else getattr(experiment, path[0])
        reason = f"{type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
        raise PluginError(
            f"{where}: plugin {settings.kind!r} of {type(settings).__module__} failed: {reason}"
        ) from fault


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
    faults = {
        f"the module must give (2, C) for 2 texts, got {tuple(outputs.shape)}": outputs.ndim != 2 or len(outputs) != 2,
        f"the loss must be one number, got shape {tuple(loss.shape)}": loss.shape != (),
        f"decode must give 2 labels for 2 texts, got {len(decoded.labels)}": len(decoded.labels) != 2,
        f"decode must give probabilities (2, {len(labels.names)}), got {tuple(decoded.probabilities.shape)}": (
            decoded.probabilities.shape != (2, len(labels.names))
        ),
        "metric names must differ, must not be `loss`, and have letters, digits, _ - . and spaces only, "
        f"got {', '.join(wrong_names)}": bool(wrong_names),
    }
    said = [fault for fault, holds in faults.items() if holds]
    if said:
        raise PluginError("\n".join(said))


def check_stages(backbone: Backbone, kind: str) -> None:
    """Check that each parameter and each buffer belongs to exactly one stage.

    Raises:
        PluginError: names those at fault.
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


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every parameter and buffer with its name: all that a module's result can depend on."""
    return [*module.named_parameters(), *module.named_buffers()]
