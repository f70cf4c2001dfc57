"""What must be the same where a run goes on, and what may change."""

import hashlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from topwork.engine.encoding.store.key import processor
from topwork.engine.evaluation.comparison import differing
from topwork.engine.model.multitask import tensors_of
from topwork.engine.preparation import Preparation
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.experiment.source import FILE_FIELDS
from topwork.lab.tracking.store import flatten
from topwork.registry import Registry

#: Settings that change nothing of what is trained.
NO_IDENTITY = re.compile(
    rf"name|plugins|tracking\..+|training\.(store|checkpoint_minutes)|data\.[^.]+\.({'|'.join(FILE_FIELDS)})"
)

#: What changes with settings and data.
DERIVED = ("plan", "sha256 of the weights")

#: What decides the bits of a computation, beside settings, data and weights.
NUMERIC = "numerics: "
PLUGIN = "plugin "

#: In how many processes a run is trained, where there are several.
PROCESSES = f"{NUMERIC}processes"


def identity_of_run(
    experiment: Experiment, prepared: Preparation, registry: Registry, device: torch.device, processes: int = 1
) -> dict[str, str]:
    """Return what must be the same where a run goes on, in words.

    Args:
        prepared: the run's first training, of which nothing is trained yet.
        processes: in how many it is trained.
    """
    weights = {"sha256 of the weights": digest_of_weights(prepared.model)}
    several = {PROCESSES: str(processes)} if processes > 1 else {}  # runs that were begun before name none
    return identity_of_training(experiment, prepared, registry, device) | weights | several


def identity_of_training(
    experiment: Experiment, prepared: Preparation, registry: Registry, device: torch.device
) -> dict[str, str]:
    """Return what must be the same where a training goes on, but for the weights that it begins with, in words."""
    settings = {
        name: str(value) for name, value in flatten(experiment.dump()).items() if not NO_IDENTITY.fullmatch(name)
    }
    files = {f"plugin file {file.path.name}": f"sha256 {file.sha256}" for file in experiment.plugins}
    return (
        settings
        | files
        | {
            "sha256 of the data": prepared.dataset.digest,
            "plan": prepared.plan.digest,
            **_plugins(experiment, registry),
            f"{NUMERIC}device": processor(device),
            f"{NUMERIC}threads": str(torch.get_num_threads()),
            f"{NUMERIC}topwork": f"{version('topwork')}{code_of('topwork')}",
            **{f"{NUMERIC}{name}": version(name) for name in ("torch", "transformers", "accelerate")},
        }
    )


def check_same(
    before: Mapping[str, str], now: Mapping[str, str], done: int | None, *, allow_inexact: bool
) -> tuple[list[str], list[str]]:
    """Compare a run with what it was begun as.

    Args:
        done: how many epochs are done; None where some training of the run is finished, so that no setting may change.
        allow_inexact: whether it may go on where its bits may be others than they would have been undisturbed.

    Returns:
        What has changed, as it may; and why the run may no longer be exact.

    Raises:
        ConfigurationError: something else has changed; lists all of that.
    """
    changes = differing([{PROCESSES: "1", **one} for one in (before, now)])
    described = {
        name: f"{name}: {then or 'nothing'} then, {later or 'nothing'} now" for name, (then, later) in changes.items()
    }
    allowed = [text for name, text in described.items() if _may_change(name, before, now, done)]
    inexact = [text for name, text in described.items() if name.startswith((NUMERIC, PLUGIN))]
    if not now[f"{NUMERIC}device"].startswith("cpu"):
        inexact.append(f"{now[f'{NUMERIC}device']} may add in another order each time")
    refused = {name: text for name, text in described.items() if text not in allowed and text not in inexact}
    of_settings = [text for name, text in refused.items() if name not in DERIVED]
    if refused:  # what follows from settings is told where one that may change by itself has changed it
        raise ConfigurationError(
            "\n".join(["this run was begun with other settings:", *(of_settings or [*allowed, *refused.values()])])
            + "\nchange these back to go on, or give another --output to train anew"
        )
    if inexact and not allow_inexact:
        raise ConfigurationError(
            "\n".join(["this run cannot go on to the same bits:", *inexact])
            + "\nchange that back, or go on all the same with --allow-inexact, which is noted in the run"
        )
    return allowed, inexact


def kinds_of(experiment: Experiment) -> list[tuple[str, str]]:
    """Catalog and kind of every plugin that an experiment uses."""
    kinds = [
        ("backbones", experiment.backbone.kind),
        ("poolings", experiment.pooling.kind),
        ("freeze_strategies", experiment.freeze.kind),
        ("optimizer_groupings", experiment.optimizer.kind),
        ("samplers", experiment.sampling.kind),
        ("loss_weightings", experiment.weighting.kind),
    ]
    return kinds + [("heads", task.head.kind) for task in experiment.tasks.values()]


def _may_change(name: str, before: Mapping[str, str], now: Mapping[str, str], done: int | None) -> bool:
    """Whether a setting may change so that what was trained would have been the same with it."""
    if done is None:
        return False
    if name == "training.epochs":
        constant = now["training.schedule"] == "constant" and float(now["training.warmup"]) == 0
        return constant and int(now[name]) >= max(done, 1)
    if name == "training.patience":  # of one that is lower, or none, the best epoch may have been another
        numbers = "None" not in (before[name], now[name]) and int(now[name]) >= int(before[name])
        return numbers and now["training.stop"] == "together"
    return False


def digest_of_weights(module: nn.Module) -> str:
    """Return the sha256 of all weights and buffers of a module."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(module):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plugins(experiment: Experiment, registry: Registry) -> dict[str, str]:
    """The version of each plugin, and the beginning of the sha256 of its package's code."""
    found = {}
    for catalog, kind in kinds_of(experiment):
        plugin = registry.catalogs()[catalog].plugins.get(kind)
        if plugin is not None:
            code = code_of(plugin.config.__module__.partition(".")[0]) if plugin.is_installed else ""
            found[f"{PLUGIN}{plugin.interface} {kind}"] = f"{plugin.package} {plugin.version}{code}"
    return found


@cache
def code_of(package: str) -> str:
    """Return the beginning of the sha256 of a package's or module's code; nothing for what has no file."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None:  # made where there is none, such as in a notebook
        return ""
    root = Path(file)
    files = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root.parent)}\n".encode() + path.read_bytes())
    return f", code {digest.hexdigest()[:12]}"
