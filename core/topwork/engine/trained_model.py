"""A trained model: a folder on disk, and what can be asked of it.

The folder holds ``model.json`` (what the model is and which plugins it needs), ``weights.safetensors`` and
``backbone/`` (architecture and tokenizer). It needs neither the experiment file nor the original weights,
and nothing in it is pickled.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError

from topwork.data.dataset import Part, encode_labels, read_part, read_splits
from topwork.data.rows import has_lone_surrogate
from topwork.engine.encoding import Shared, encode, make_corpus
from topwork.engine.evaluation import Estimate, Rows, estimates, outputs_of
from topwork.engine.model import MultiTaskModel
from topwork.errors import DataError, PluginError, StorageError, TopworkError
from topwork.experiment.loading import worded
from topwork.experiment.schema import CATALOGS, Source, SplitName
from topwork.files import new_folder, sha256_of
from topwork.interfaces.head import Classes
from topwork.registry import Registry, discover

#: The layout of the folder; a newer one is refused.
FORMAT = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What one head says of one text.

    Attributes:
        label: the predicted label.
        probabilities: of each class, by name; they sum to 1.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class TrainedModel:
    """A model that predicts, encodes and can be evaluated, on the device that its weights are on.

    Attributes:
        tasks: the classes of each task.
        experiment: the experiment that trained it, as JSON values.
        digests: sha256 of each file of the training, by path.
    """

    model: MultiTaskModel
    tasks: dict[str, Classes]
    experiment: dict[str, Any]
    digests: dict[str, str]

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        self.model.train_only(())  # nothing trains any more, so the cut is behind the pooling
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def predict(self, texts: Sequence[str]) -> list[dict[str, Prediction]]:
        """Return, for each of N texts, a prediction by task."""
        rows = self._rows(texts, {})
        predictions: list[dict[str, Prediction]] = [{} for _ in texts]
        for task, outputs in outputs_of(self.model, rows, device=self.device).items():
            decoded = self.model.tasks[task].decode(outputs)
            names = self.tasks[task].names
            for prediction, label, row in zip(predictions, decoded.labels, decoded.probabilities.tolist(), strict=True):
                prediction[task] = Prediction(label, dict(zip(names, row, strict=True)))
        return predictions

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the pooled vectors of N texts, (N, W) float32."""
        vectors, _ = self._rows(texts, {}).activations.batch(torch.arange(len(texts)))
        encoded: NDArray[np.float32] = vectors[:, 0].numpy()
        return encoded

    def evaluate(self, file: str | Path | None = None) -> tuple[dict[str, Estimate], str]:
        """Measure every metric, with intervals, and say on which rows.

        Args:
            file: a file with rows like those of the training source. Without it, the test rows of the
                experiment are read again, or its validation rows where it has no test rows.

        Raises:
            DataError: rows or labels are at fault, or the experiment's file has changed since.
        """
        part, which = self._part(file)
        rows = self._rows(part.texts, part.targets)
        outputs = outputs_of(self.model, rows, device=self.device)
        return estimates(self.model.tasks, outputs, rows.targets), which

    def _part(self, file: str | Path | None) -> tuple[Part, str]:
        source = Source.model_validate(next(iter(self.experiment["data"].values())))
        columns = {name: task["label"] for name, task in self.experiment["tasks"].items()}
        if file is not None:
            everything = source.model_copy(update={"limit": None})
            return read_part(Path(file), everything, columns, self.tasks), f"all rows of {file}"
        splits, digests = read_splits(source, columns)
        changed = [path for path, digest in digests.items() if digest != self.digests.get(str(path))]
        if changed:
            raise DataError(
                f"{changed[0]} is not the file of the training any more, so its test rows may be others; "
                "name a file to evaluate on all of its rows"
            )
        order: tuple[SplitName, ...] = ("test", "validation", "train")
        which = next(name for name in order if name in splits)
        part = Part(splits[which].texts, encode_labels(splits[which], columns, self.tasks))
        return part, f"{which} rows of the experiment"

    def _rows(self, texts: Sequence[str], targets: Mapping[str, NDArray[np.int64]]) -> Rows:
        if isinstance(texts, str):
            raise DataError("give a list of texts, not one text")
        if not texts:
            raise DataError("no texts given")
        for fault, wrong in (("empty", _is_blank), ("not valid Unicode", has_lone_surrogate)):
            numbers = [str(number) for number, text in enumerate(texts, 1) if wrong(text)]
            if numbers:
                raise DataError(f"{len(numbers)} of {len(texts)} texts are {fault}: number {', '.join(numbers[:20])}")
        corpus = make_corpus(self.model.backbone.tokenizer, {"test": texts})
        if corpus.truncated:
            logger.warning(
                "%d of %d texts are longer than the model reads and were truncated", corpus.truncated, len(texts)
            )
        activations = Shared(encode(self.model, corpus.token_ids, device=self.device), corpus.of["test"])
        return Rows(activations, {task: torch.from_numpy(values) for task, values in targets.items()}, len(texts))


def _is_blank(text: str) -> bool:
    return not text.strip()


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
        except SafetensorError as fault:  # it wraps what the disk says
            raise StorageError(f"{folder} could not be written: {fault}") from fault
        manifest = {
            "format": FORMAT,
            "topwork": version("topwork"),
            "weights_sha256": sha256_of(weights),
            "classes": {task: list(classes.names) for task, classes in trained.tasks.items()},
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
    experiment = manifest["experiment"]
    registry = discover()
    needed = {(plugin["interface"], plugin["kind"]): plugin for plugin in manifest["plugins"]}

    def config_of(field: str, settings: dict[str, Any]) -> Any:
        catalog = registry.catalogs()[CATALOGS[field]]
        plugin = needed[catalog.interface, settings["kind"]]
        try:
            return catalog.parse(settings, problems=registry.problems)
        except ValidationError as fault:
            told = (f"{'.'.join(map(str, error['loc']))}: {worded(error)}" for error in fault.errors())
            raise _incompatible(folder, plugin, "; ".join(told)) from None
        except ValueError as fault:
            raise _incompatible(folder, plugin, str(fault)) from None

    classes = {task: Classes(tuple(names)) for task, names in manifest["classes"].items()}
    try:
        backbone = config_of("backbone", experiment["backbone"]).restore(folder / "backbone")
    except TopworkError:
        raise
    except Exception as fault:  # a backbone reads with its own library, which raises what it likes
        raise StorageError(
            f"{folder / 'backbone'} is damaged: {str(fault).splitlines()[0]}; copy the folder again"
        ) from None
    pooling = config_of("pooling", experiment["pooling"]).build(backbone.width)
    heads = {
        task: config_of("head", experiment["tasks"][task]["head"]).build(pooling.width, labels)
        for task, labels in classes.items()
    }
    model = MultiTaskModel(backbone, pooling, heads)
    weights = folder / "weights.safetensors"
    if sha256_of(weights) != manifest["weights_sha256"]:
        raise StorageError(f"{weights} is damaged: its sha256 is not the one in model.json; copy the folder again")
    try:
        safetensors.torch.load_model(model, weights)
    except (SafetensorError, RuntimeError) as fault:
        raise StorageError(f"{weights} does not fit the model that model.json describes: {fault}") from None
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


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("it holds no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{folder} is not a trained model: it holds no model.json") from None
    except (OSError, ValueError) as fault:
        raise StorageError(f"{path} cannot be read: {fault}") from None
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
