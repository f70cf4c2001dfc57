"""Prepare experiments one after another and load, tokenize and encode anew only what differs from before."""

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from topwork.data.dataset import Dataset, load_dataset
from topwork.engine.encoding.corpus import Corpus
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.store_decision import EncodingJob
from topwork.engine.model.building import build_backbone
from topwork.engine.model.multitask import tensors_of
from topwork.engine.model.plan import Phase
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation import Preparation, assemble, tokenize_splits
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Experiment
from topwork.experiment.source import SplitName
from topwork.interfaces.backbone import Backbone, BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig


class PreparationCache:
    """Gives what ``prepare`` and ``load_examples`` would give, to the last bit, without their repeated work.

    Prepared experiments share the backbone, so each is good until the next one is prepared.
    """

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._corpora: dict[tuple[str, str], Corpus] = {}
        self._backbones: dict[tuple[str, int], CachedBackbone] = {}  # by settings and seed; several seeds may share one
        self._examples: dict[str, tuple[dict[SplitName, Examples], EncodingReport]] = {}
        self._adapted = False  # whether the backbone has adapters of the experiment prepared last

    def prepare(self, experiment: Experiment) -> Preparation:
        """Prepare an experiment as ``prepare`` does.

        Raises:
            TopworkError: whatever is wrong with data, plugins or settings.
        """
        rows, settings = _rows_key(experiment), experiment.backbone.model_dump_json()
        if rows not in self._datasets:
            self._datasets = {rows: load_dataset(experiment.data, experiment.label_columns)}
        dataset = self._datasets[rows]
        seed, origin = experiment.training.seed, experiment.origin
        cached = self._backbone(experiment.backbone, experiment.freeze, seed, origin)
        if (rows, settings) not in self._corpora:
            self._corpora[rows, settings] = tokenize_splits(
                dataset, experiment.reads, experiment.window, cached.backbone, where=experiment.origin.locate("window")
            )
        prepared = assemble(experiment, dataset, self._corpora[rows, settings], cached.backbone)
        cached.remember(prepared.plan.shapes)
        return prepared

    def load_examples(
        self,
        prepared: Preparation,
        phase: Phase,
        device: torch.device,
        observer: Observer,
        also: Sequence[EncodingJob] = (),
    ) -> tuple[dict[SplitName, Examples], EncodingReport]:
        """Return the examples of the experiment prepared last as ``Preparation.load_examples`` does.

        Raises:
            StorageError: see there.
        """
        cached = next(one for one in self._backbones.values() if one.backbone is prepared.model.backbone)
        key = _activations_key(prepared, phase, device, cached.number)
        if not phase.prefix_is_pretrained or key not in self._examples:
            examples, report = prepared.load_examples(phase, device, observer, also)
            # what this very model recomputes, or gives after training, is of no use to the next
            if phase.prefix_is_pretrained and report.where != "recomputed":
                if report.where == "memory":  # one such is enough
                    self._examples = {k: held for k, held in self._examples.items() if held[1].where != "memory"}
                self._examples[key] = examples, report
            return examples, report
        examples, report = self._examples[key]
        prepared.model.to(device)
        return examples, dataclasses.replace(report, encoded=0, seconds=0.0)

    def _backbone(
        self, config: BackboneConfig, freeze: FreezeStrategyConfig, seed: int, origin: Origin
    ) -> "CachedBackbone":
        """Return the backbone with the weights that it has when it is built."""
        settings = config.model_dump_json()
        adapts = freeze.adapts_backbone or self._adapted
        self._adapted = freeze.adapts_backbone
        if adapts or any(key[0] != settings for key in self._backbones):  # one at a time, with what came of it
            self._backbones, self._examples = {}, {}
        for cached in self._backbones.values():
            cached.restore()
        if (settings, seed) not in self._backbones:
            built = CachedBackbone(build_backbone(config, seed=seed, origin=origin))
            others = self._backbones.values()
            # weights that are loaded are the same for every seed, and need not be held twice
            self._backbones[settings, seed] = next((other for other in others if other.equals(built)), built)
        return self._backbones[settings, seed]


class CachedBackbone:
    """A backbone that is trained again and again, always from the same weights."""

    _numbers = itertools.count()

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.number = next(self._numbers)
        self._before: dict[str, Tensor] = {name: buffer.clone() for name, buffer in backbone.named_buffers()}

    def remember(self, trained: Collection[str]) -> None:
        """Keep a copy of the parameters that are going to be trained, which have a model's names."""
        for name, parameter in self.backbone.named_parameters():
            if f"backbone.{name}" in trained and name not in self._before:
                self._before[name] = parameter.detach().clone()

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what training did."""
        for name, tensor in tensors_of(self.backbone):
            if name in self._before:
                tensor.copy_(self._before[name])
            tensor.grad = None

    def equals(self, other: "CachedBackbone") -> bool:
        """Whether both have the same weights and buffers, to the last bit."""
        pairs = zip(tensors_of(self.backbone), tensors_of(other.backbone), strict=True)
        return all(
            one.dtype == another.dtype and torch.equal(one.cpu(), another.cpu()) for (_, one), (_, another) in pairs
        )


def _rows_key(experiment: Experiment) -> str:
    """What decides the dataset, and how its texts are divided."""
    sources = {name: source.model_dump(mode="json") for name, source in experiment.data.items()}
    window = experiment.window and experiment.window.stride
    return json.dumps([sources, repr(experiment.label_columns), experiment.reads, window])


def _activations_key(prepared: Preparation, phase: Phase, device: torch.device, backbone: int) -> str:
    """What decides the activations, and how they are kept."""
    experiment, settings = prepared.experiment, prepared.experiment.training
    values: list[Any] = [_rows_key(experiment), backbone]
    values += [dataclasses.asdict(phase.cut), settings.activation_dtype, settings.store]
    if phase.cut.keeps == "pooled" or phase.cut.layers:
        values += [experiment.pooling.model_dump(mode="json"), settings.seed]
    return json.dumps([*values, str(device)])
