"""Small experiments for the engine's tests, and one trained MiniLM that they share."""

import csv
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.evaluation.estimates import Estimate, estimates, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase
from topwork.engine.model_folder import save_model
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.trained_model import TrainedModel
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.loop import Fit
from topwork.experiment.schema import Experiment, Task, Training
from topwork.experiment.source import Source, Split, SplitName
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.pooling import Pooling
from topwork.registry import discover
from topwork.testing import TinyBackboneConfig, tiny_model
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.samplers.proportional import ProportionalConfig

WORDS = {"pos": ["good", "fine", "lovely"], "neg": ["bad", "poor", "broken"]}
THINGS = {"books": ["novel", "story"], "music": ["song", "album"], "tools": ["saw", "drill"]}


@dataclass(frozen=True)
class Trained:
    """All that a training run leaves."""

    prepared: Preparation
    fit: Fit
    reports: list[EncodingReport]

    @property
    def model(self) -> MultiTaskModel:
        return self.prepared.model

    @property
    def data(self) -> Mapping[SplitName, Examples]:
        return self.fit.data


@dataclass(frozen=True)
class Finished:
    """A trained MiniLM, in memory and on disk, with its figures on the test rows."""

    trained: TrainedModel
    folder: Path
    figures: dict[str, Estimate]
    texts: list[str]


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reviews_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 60 short reviews with a sentiment (2 classes) and a category (3 classes)."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "sentiment", "category"])
        for number in range(60):
            sentiment, category = draw.choice(list(WORDS)), draw.choice(list(THINGS))
            text = f"a {draw.choice(WORDS[sentiment])} {draw.choice(THINGS[category])}, {'really ' * draw.randrange(2)}"
            rows.writerow([f"{text}{number}", sentiment, category])
    return path


@pytest.fixture(scope="session")
def make(reviews_file: Path) -> Callable[..., Experiment]:
    """Build an experiment on the tiny backbone; keywords replace parts of it, and ``training`` settings of its loop."""

    def make_experiment(*, training: dict[str, Any] | None = None, **parts: Any) -> Experiment:
        split = Split(validation=0.2, test=0.2)
        settings = {"epochs": 2, "batch_size": 8, "shuffle": True, "patience": None, "device": "cpu"}
        whole = {
            "name": "small",
            "data": {"reviews": Source(path=reviews_file, split=split)},
            "backbone": TinyBackboneConfig(),
            "pooling": ClsConfig(),
            "tasks": {
                "sentiment": Task(label="sentiment", head=BinaryConfig(hidden=(8,))),
                "category": Task(label="category", head=ClassificationConfig(hidden=(8,))),
            },
            "freeze": AllExceptConfig(patterns=("layer.1.ffn", "layer.1.output_layer_norm")),
            "optimizer": HeadsAndBackboneConfig(heads_lr=1e-2, backbone_lr=1e-3),
            "sampling": ProportionalConfig(),
            "weighting": FixedConfig(),
        }
        return Experiment(**whole | {"training": Training(**settings | (training or {}))} | parts)

    return make_experiment


def run(
    experiment: Experiment,
    observer: Observer | None = None,
    *,
    reader: Observer | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Prepare, encode and train; ``reader`` watches the encoding."""
    prepared = prepare(experiment)
    accelerator = make_accelerator(experiment.training)
    watched, reports = observer or Observer(), []
    if hasattr(watched, "model"):
        watched.model = prepared.model

    def load_examples(phase: Phase) -> dict[SplitName, Examples]:
        examples, report = prepared.load_examples(phase, accelerator.device, reader or Observer())
        reports.append(report)
        return examples

    outcome = prepared.fit(load_examples, accelerator=accelerator, observer=watched, checkpoints=checkpoints)
    return Trained(prepared, outcome, reports)


@pytest.fixture(scope="session")
def train() -> Callable[..., Trained]:
    """Prepare, encode and train an experiment; an observer with an attribute ``model`` is given the model."""
    return run


@pytest.fixture(scope="session")
def minilm() -> Backbone:
    """The real MiniLM; freeze it through a model, and never train it."""
    return MiniLmConfig(max_length=512).build().eval()


@pytest.fixture(scope="session")
def cut_minilm(minilm: Backbone) -> Callable[[Pooling, tuple[str, ...]], MultiTaskModel]:
    """Put a pooling on the real MiniLM and let the backbone parameters train whose names contain a pattern."""

    def cut(pooling: Pooling, patterns: tuple[str, ...]) -> MultiTaskModel:
        model = MultiTaskModel(minilm, pooling, {})
        names = [f"backbone.{name}" for name, _ in minilm.named_parameters()]
        model.set_trainable([name for name in names if any(pattern in name for pattern in patterns)])
        return model.eval()

    return cut


@pytest.fixture(scope="session")
def random_ids() -> Callable[..., Ragged]:
    """Make token ids for texts of the given lengths, the same ones for the same seed."""

    def make_ids(lengths: list[int], *, seed: int = 0, vocabulary: int = 20000) -> Ragged:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(3, vocabulary, (sum(lengths),), generator=generator)
        return Ragged(values, offsets_of(torch.tensor(lengths)))

    return make_ids


@pytest.fixture
def tiny() -> MultiTaskModel:
    """A fresh tiny model with the heads ``animal`` and ``mood``."""
    return tiny_model()


@pytest.fixture(scope="session")
def finished(make: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A MiniLM trained for one epoch, measured, and saved."""
    freeze = AllExceptConfig(patterns=("layer.5.ffn", "layer.5.output_layer_norm"))
    trained = run(make(backbone=MiniLmConfig(max_length=16), freeze=freeze, training={"epochs": 1}))
    model, test = trained.model, trained.data["test"]
    figures = estimates(model.tasks, outputs_of(model, test, device=torch.device("cpu")), test.labelled_targets())
    experiment = trained.prepared.experiment.dump()
    digests = {str(path): digest for path, digest in trained.prepared.dataset.digests.items()}
    whole = TrainedModel(model, trained.prepared.dataset.labels, experiment, digests)
    folder = tmp_path_factory.mktemp("models") / "small"
    save_model(folder, whole, discover())
    return Finished(whole, folder, figures, trained.prepared.dataset.splits["test"].texts)


@pytest.fixture
def on_minilm(make: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Build an experiment on MiniLM; keywords are parts of it, ``file`` its rows, and ``limit`` how many of them."""

    def build(*, file: Path | None = None, limit: int | None = None, **parts: Any) -> Experiment:
        experiment = make(**{"backbone": MiniLmConfig(max_length=16), "freeze": AllExceptConfig()} | parts)
        ((name, source),) = experiment.data.items()
        changes = {"limit": limit} | ({"path": file} if file else {})
        return experiment.model_copy(update={"data": {name: source.model_copy(update=changes)}})

    return build


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the model's folder; its files are links, so replace them and never write into them."""
    return Path(shutil.copytree(finished.folder, tmp_path / "model", copy_function=os.link))
