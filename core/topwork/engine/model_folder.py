"""A trained model's folder: ``model.json`` (what the model is and which plugins it needs), ``weights.safetensors`` and
``backbone/`` (architecture and tokenizer).

It needs neither the experiment file nor the original weights, and nothing in it is pickled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors import SafetensorError

from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.trained_model import TrainedModel
from topwork.errors import PluginError, StorageError, TopworkError, first_line, text_of
from topwork.experiment.loading import describe_error
from topwork.experiment.schema import CATALOGS
from topwork.files import new_folder, sha256_of
from topwork.interfaces.head import Classes
from topwork.registry import Registry, discover

#: The layout of the folder; a newer one is refused.
FORMAT = 1


def save_model(folder: Path, trained: TrainedModel, registry: Registry) -> None:
    """Write a trained model to a new folder.

    Raises:
        StorageError: the folder exists already or cannot be written.
    """
    with new_folder(folder) as temporary:
        (temporary / "backbone").mkdir()
        trained.model.backbone.save(temporary / "backbone")
        weights = temporary / "weights.safetensors"
        try:
            safetensors.torch.save_model(trained.model, str(weights))
        except SafetensorError as error:  # it wraps what the disk says
            raise StorageError(f"{folder} could not be written: {error}") from error
        manifest = {
            "format": FORMAT,
            "topwork": version("topwork"),
            "weights_sha256": sha256_of(weights),
            "classes": {task: list(classes.names) for task, classes in trained.labels.items()},
            "plugins": [asdict(needed) for needed in needed_plugins(trained.experiment, registry)],
            "digests": trained.digests,
            "experiment": trained.experiment,
        }
        (temporary / "model.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load_model(folder: str | Path) -> TrainedModel:
    """Read a trained model, to compute on the best device there is.

    Raises:
        StorageError: the folder is not a trained model, or is damaged.
        PluginError: a plugin that the model needs is not installed; says which, and the version it had.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    experiment, registry = manifest["experiment"], discover()
    classes = {task: Classes(tuple(names)) for task, names in manifest["classes"].items()}
    config = partial(_parse_settings, folder, manifest["plugins"], registry)
    encoder = config("backbone", experiment["backbone"])
    try:
        backbone = encoder.restore(folder / "backbone")
    except TopworkError:
        raise
    except Exception as error:  # a backbone reads with its own library, which raises what it likes
        raise StorageError(f"{folder / 'backbone'} is damaged: {first_line(error)}; copy the folder again") from None
    pooling = config("pooling", experiment["pooling"]).build(backbone.width)
    heads = {
        task: config("head", experiment["tasks"][task]["head"]).build(pooling.width, labels)
        for task, labels in classes.items()
    }
    model = MultiTaskModel(backbone, pooling, heads)
    weights = folder / "weights.safetensors"
    if sha256_of(weights) != manifest["weights_sha256"]:
        raise StorageError(f"{weights} is damaged: its sha256 is not the one in model.json; copy the folder again")
    try:
        safetensors.torch.load_model(model, weights)
    except (SafetensorError, RuntimeError) as error:
        raise StorageError(f"{weights} does not fit the model that model.json describes: {error}") from None
    return TrainedModel(model.to(Accelerator().device), classes, experiment, manifest["digests"])


@dataclass(frozen=True)
class NeededPlugin:
    """A plugin without which a model cannot be loaded."""

    interface: str
    kind: str
    package: str
    version: str


def needed_plugins(experiment: Mapping[str, Any], registry: Registry) -> list[NeededPlugin]:
    """The plugins that a model of this experiment (as JSON values) consists of."""
    kinds = [("backbones", experiment["backbone"]), ("poolings", experiment["pooling"])]
    kinds += [("heads", task["head"]) for task in experiment["tasks"].values()]
    found = [registry.catalogs()[catalog].plugins[settings["kind"]] for catalog, settings in kinds]
    needed = [NeededPlugin(plugin.interface, plugin.kind, plugin.package, plugin.version) for plugin in found]
    return list(dict.fromkeys(needed))


def _parse_settings(
    folder: Path, plugins: Sequence[Mapping[str, str]], registry: Registry, field: str, settings: dict[str, Any]
) -> Any:
    """Return the config of one of the plugins that the model in ``folder`` was saved with."""
    catalog = registry.catalogs()[CATALOGS[field]]
    kind = settings["kind"]
    saved_with = next(one for one in plugins if (one["interface"], one["kind"]) == (catalog.interface, kind))
    try:
        return catalog.parse(settings, problems=registry.problems)
    except ValidationError as error:
        messages = (f"{'.'.join(map(str, detail['loc']))}: {describe_error(detail)}" for detail in error.errors())
        raise _incompatible(folder, saved_with, "; ".join(messages)) from None
    except ValueError as error:
        raise _incompatible(folder, saved_with, text_of(error)) from None


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("it holds no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{folder} is not a trained model: it holds no model.json") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {text_of(error)}") from None
    if written.get("format") != FORMAT:
        raise StorageError(
            f"{path} has format {written.get('format')}, this topwork ({version('topwork')}) reads format {FORMAT}; "
            f"use topwork {written.get('topwork', '?')}, which wrote it"
        )
    missing = {"weights_sha256", "classes", "plugins", "digests", "experiment"} - written.keys()
    if missing:
        raise StorageError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}; copy the folder again")
    return written


def _incompatible(folder: Path, plugin: Mapping[str, str], why: str) -> PluginError:
    return PluginError(
        f"{folder} needs {plugin['interface']} {plugin['kind']!r} of package {plugin['package']} {plugin['version']}: "
        f"{why}; install it with: pip install '{plugin['package']}=={plugin['version']}'"
    )
