"""A trained model's folder: ``model.json`` (what the model is and which plugins it needs), ``weights.safetensors``,
``backbone/`` (architecture and tokenizer), and ``plugins/`` with the plugin files that it was trained with, if any.
``model.json`` has the sha256 of all other files, and of itself without it.

It needs neither the experiment file nor the original weights, and nothing in it is pickled. A plugin file is code,
which runs when the model is loaded; so whoever loads such a model must say that they trust it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from topwork.data.label_reader import describe_spaces
from topwork.engine.label_record import record_of
from topwork.engine.model.building import build_head
from topwork.engine.model.encoder_checks import sample
from topwork.engine.model.head_checks import HeadInputs, differing_results, results_of
from topwork.engine.model.multitask import MultiTaskModel, head_width
from topwork.engine.model.plugin_checks import plugin_errors
from topwork.engine.model_manifest import (
    FORMAT,
    PLUGINS,
    ModelManifest,
    NeededPlugin,
    read_model_manifest,
    sha256_of_values,
)
from topwork.engine.trained_model import TrainedModel
from topwork.errors import (
    ConfigurationError,
    PluginError,
    StorageError,
    TopworkError,
    enumerate_names,
    first_line,
    text_of,
)
from topwork.experiment.loading import describe_error
from topwork.experiment.plugin_entry import CATALOGS
from topwork.files import new_folder, sha256_of
from topwork.interfaces.head import Reading
from topwork.plugin_file import PluginFile, not_trusted, read_plugin_file
from topwork.registry import Plugin, Registry, discover


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
            safetensors.torch.save_file(_distinct_tensors(trained.model), str(weights))
        except SafetensorError as error:  # it wraps what the disk says
            raise StorageError(f"{folder} could not be written: {error}") from error
        for plugin_file in needed_files(trained.experiment, registry):
            (temporary / PLUGINS).mkdir(exist_ok=True)
            (temporary / PLUGINS / plugin_file.path.name).write_bytes(plugin_file.text.encode())
        parts = ("backbone", PLUGINS)
        files = sorted(path for part in parts for path in (temporary / part).rglob("*") if path.is_file())
        manifest = {
            "format": FORMAT,
            "topwork": version("topwork"),
            "weights_sha256": sha256_of(weights),
            "files_sha256": {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files},
            "labels": {task: record_of(space) for task, space in trained.labels.items()},
            "plugins": [asdict(needed) for needed in needed_plugins(trained.experiment, registry)],
            "digests": trained.digests,
            **({"mixed_stages": trained.model.mixed_stages} if trained.model.mixed_stages else {}),
            "experiment": trained.experiment,
        }
        manifest["sha256"] = sha256_of_values(manifest)
        (temporary / "model.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def holds_model(folder: Path, trained: TrainedModel) -> bool:
    """Whether a folder has a trained model with these very weights."""
    try:
        manifest = read_model_manifest(folder)
    except StorageError:
        return False
    weights = safetensors.torch.save(_distinct_tensors(trained.model))
    return manifest.weights_sha256 == hashlib.sha256(weights).hexdigest()


def load_model(folder: str | Path, *, trust_plugins: bool = False) -> TrainedModel:
    """Read a trained model, to compute on the best device there is.

    Args:
        trust_plugins: whether the plugin files in it, which are code, may run. Those that have run in this process
            already may.

    Raises:
        ConfigurationError: it has plugin files, and they are not trusted.
        StorageError: the folder is not a trained model, or is damaged.
        PluginError: a plugin that the model needs is not installed; says which, and the version it had.
    """
    folder = Path(folder)
    manifest = read_model_manifest(folder)
    for name, sha256 in {"weights.safetensors": manifest.weights_sha256, **manifest.files_sha256}.items():
        if sha256_of(folder / name) != sha256:
            raise StorageError(
                f"{folder / name} is damaged: its sha256 is not the one in model.json; copy the folder again"
            )
    experiment, registry = manifest.experiment, discover(_plugin_files(folder, manifest, trusted=trust_plugins))
    labels = {task: record.restore() for task, record in manifest.labels.items()}
    config = partial(_parse_settings, folder, manifest.plugins, registry)
    encoder = config("backbone", experiment["backbone"])
    try:
        backbone = encoder.restore(folder / "backbone")
    except TopworkError:
        raise
    except Exception as error:  # a backbone reads with its own library, which raises what it likes
        raise StorageError(f"{folder / 'backbone'} is damaged: {first_line(error)}; copy the folder again") from None
    read = config("pooling", experiment["pooling"])
    with plugin_errors(read, str(folder)):
        pooling = read.build(backbone.width)
    heads, reads = {}, {}
    for task, space in labels.items():
        read = config("head", experiment["tasks"][task]["head"])
        reads[task] = read.reads
        if type(space) not in read.label_spaces:
            raise StorageError(
                f"{folder / 'model.json'}: task {task}: head {read.kind} takes {describe_spaces(read.label_spaces)}, "
                f"got {describe_spaces((type(space),))}"
            )
        try:
            width = head_width(read.reads, backbone, pooling)
            heads[task] = build_head(read, width, space, where=f"{folder / 'model.json'}: task {task}")
        except ConfigurationError as error:  # classes that it cannot have been saved with
            raise StorageError(text_of(error)) from None
    model = MultiTaskModel(backbone, pooling, heads, reads, mixed_stages=manifest.mixed_stages)
    weights = folder / "weights.safetensors"
    try:
        _load_tensors(model, safetensors.torch.load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise StorageError(f"{weights} does not fit the model that model.json describes: {error}") from None
    return TrainedModel(model.to(Accelerator().device), labels, experiment, manifest.digests)


def check_saved_model(folder: Path, trained: TrainedModel, texts: Sequence[str]) -> None:
    """Load a model that was just saved, and compare what it gives for some texts, to the last bit, on the CPU.

    Args:
        trained: the model that was saved; it is moved to the CPU.

    Raises:
        PluginError: it cannot be loaded, or gives something else, because a plugin depends on what is not saved.
    """
    why = "it depends on something besides its parameters and buffers, and nothing else is saved"
    try:
        loaded = load_model(folder)
    except StorageError as error:
        raise PluginError(f"{folder} was saved, but cannot be loaded: {text_of(error)}") from error
    vectors = [_pooled_vectors(one.model.cpu(), texts) for one in (trained, loaded)]
    states = [_hidden_states(one.model, texts) for one in (trained, loaded)]
    if not torch.equal(*vectors) or not torch.equal(states[0][0], states[1][0]):
        kinds = " or ".join(f"{part} {trained.experiment[part]['kind']!r}" for part in ("backbone", "pooling"))
        raise PluginError(f"{folder} does not give the vectors that the trained model gives; {kinds}: {why}")
    for task in trained.labels:
        pairs = torch.stack([vectors[0], vectors[0].roll(1, dims=0)], dim=1)
        inputs: dict[Reading, HeadInputs] = {"pooled": (vectors[0],), "two pooled": (pairs,), "words": states[0]}
        results = [results_of(one.model.tasks[task], inputs[trained.model.reads[task]]) for one in (trained, loaded)]
        if differing := differing_results(*results):
            kind = trained.experiment["tasks"][task]["head"]["kind"]
            raise PluginError(
                f"{folder} does not give the {differing[0]} of task {task} that the trained model gives; "
                f"head {kind!r}: {why}"
            )


def _pooled_vectors(model: MultiTaskModel, texts: Sequence[str]) -> Tensor:
    """Return the pooled vectors (N, W) of N texts that a model on the CPU gives, the shortest text first."""
    token_ids, mask = sample(model.backbone.tokenizer, texts)
    kept = model.run_prefix(token_ids, mask)
    return model.pool(kept, model.cut.mask(mask)).float()


@torch.no_grad()
def _hidden_states(model: MultiTaskModel, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the hidden states (N, T, D) of the tokens of N texts, as if each were a word, and their mask (N, T)."""
    token_ids, mask = sample(model.backbone.tokenizer, texts)
    return model.backbone(token_ids, mask), mask


def _distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what there is to save, each tensor once: of those with several names, under the first."""
    distinct = {_place_of(tensor, name): (name, tensor) for name, tensor in reversed(model.state_dict().items())}
    owners = Counter(tensor.untyped_storage().data_ptr() for _, tensor in distinct.values())
    return {  # a file holds no two tensors that share memory, nor a part of one
        name: tensor.clone(memory_format=torch.contiguous_format)
        if owners[tensor.untyped_storage().data_ptr()] > 1
        or not tensor.is_contiguous()
        or tensor.nbytes < tensor.untyped_storage().nbytes()
        else tensor
        for name, tensor in reversed(distinct.values())
    }


def _load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model its tensors, where one of several names is enough.

    Raises:
        RuntimeError: some are missing, left over, or of another shape.
    """
    state = model.state_dict()
    loaded = {_place_of(state[name], name) for name in tensors if name in state}
    missing = [name for name, tensor in state.items() if name not in tensors and _place_of(tensor, name) not in loaded]
    unknown = [name for name in tensors if name not in state]
    if missing or unknown:
        raise RuntimeError(
            f"missing: {enumerate_names(missing) or 'none'}; unknown: {enumerate_names(unknown) or 'none'}"
        )
    model.load_state_dict(tensors, strict=False)


def _place_of(tensor: Tensor, name: str) -> object:
    """Equal for tensors that are one tensor in memory."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name


def needed_plugins(experiment: Mapping[str, Any], registry: Registry) -> list[NeededPlugin]:
    """The installed plugins that a model of this experiment (as JSON values) consists of."""
    found = [plugin for plugin in _plugins_of(experiment, registry) if plugin.is_installed]
    needed = [NeededPlugin(plugin.interface, plugin.kind, plugin.package, plugin.version) for plugin in found]
    return list(dict.fromkeys(needed))


def needed_files(experiment: Mapping[str, Any], registry: Registry) -> list[PluginFile]:
    """The plugin files that a model of this experiment (as JSON values) cannot be loaded without."""
    modules = {plugin.config.__module__ for plugin in _plugins_of(experiment, registry)}
    return [file for file in registry.files if file.module in modules]


def _plugin_files(folder: Path, manifest: ModelManifest, *, trusted: bool) -> list[PluginFile]:
    """Read the plugin files in the folder of a model.

    Raises:
        ConfigurationError: there are some, and they are not trusted.
    """
    files = [read_plugin_file(folder / name) for name in manifest.files_sha256 if name.startswith(f"{PLUGINS}/")]
    if names := not_trusted(files, trusted=trusted):
        raise ConfigurationError(
            f"model {folder} has plugin files of its own, code that runs when it is loaded: {names}; read what is "
            f"in {folder / PLUGINS}, and if you trust it, load it with --trust-plugins, or trust_plugins=True in Python"
        )
    return files


def _plugins_of(experiment: Mapping[str, Any], registry: Registry) -> list[Plugin[Any]]:
    """The plugins that a model of this experiment (as JSON values) consists of."""
    kinds = [("backbones", experiment["backbone"]), ("poolings", experiment["pooling"])]
    kinds += [("heads", task["head"]) for task in experiment["tasks"].values()]
    return [registry.catalogs()[catalog].plugins[settings["kind"]] for catalog, settings in kinds]


def _parse_settings(
    folder: Path, plugins: Sequence[NeededPlugin], registry: Registry, field: str, settings: dict[str, Any]
) -> Any:
    """Return the config of one of the plugins that the model in ``folder`` was saved with."""
    catalog = registry.catalogs()[CATALOGS[field]]
    kind = settings["kind"]
    unknown = NeededPlugin(catalog.interface, kind, "?", "?")
    saved_with = next((one for one in plugins if (one.interface, one.kind) == (catalog.interface, kind)), unknown)
    if kind in catalog.conflicts:  # installing is no remedy
        raise PluginError(f"{folder} cannot be loaded: {catalog.conflict(kind)}; remove one of them")
    try:
        return catalog.parse(settings, problems=registry.problems)
    except ValidationError as error:
        messages = (f"{'.'.join(map(str, detail['loc']))}: {describe_error(detail)}" for detail in error.errors())
        raise _incompatible(folder, saved_with, "; ".join(messages)) from None
    except ValueError as error:
        raise _incompatible(folder, saved_with, text_of(error)) from None


def _incompatible(folder: Path, plugin: NeededPlugin, why: str) -> PluginError:
    if plugin.package == "?":
        return PluginError(f"{folder} needs {plugin.interface} {plugin.kind!r}, of which it has no file: {why}")
    return PluginError(
        f"{folder} needs {plugin.interface} {plugin.kind!r} of package {plugin.package} {plugin.version}: "
        f"{why}; install it with: pip install '{plugin.package}=={plugin.version}'"
    )
