"""Prepare experiments one after another and load, tokenize and encode anew only what differs from before."""

import dataclasses
import itertools
import json
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from topwork.data.dataset import Dataset, load_dataset
from topwork.engine.checks import tensors_of
from topwork.engine.encoding import Corpus
from topwork.engine.evaluation import Rows
from topwork.engine.model import build_backbone
from topwork.engine.observer import Observer, Reading
from topwork.engine.plan import Phase
from topwork.engine.preparation import Prepared, assemble, tokenize_all
from topwork.engine.reading import read_rows
from topwork.experiment.schema import Experiment, SplitName
from topwork.interfaces.backbone import Backbone


class Workbench:
    """Gives what ``prepare`` and ``read_rows`` would give, to the last bit, without their repeated work.

    Prepared experiments share the backbone, so each is good until the next one is prepared.
    """

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._corpora: dict[tuple[str, str], Corpus] = {}
        self._backbones: dict[tuple[str, int], _Lent] = {}  # by settings and seed; several seeds may share one
        self._read: dict[str, tuple[dict[SplitName, Rows], Reading]] = {}

    def prepare(self, experiment: Experiment) -> Prepared:
        """Prepare an experiment as ``prepare`` does.

        Raises:
            TopworkError: whatever is wrong with data, plugins or settings.
        """
        rows, settings = _rows_key(experiment), experiment.backbone.model_dump_json()
        if rows not in self._datasets:
            self._datasets = {rows: load_dataset(experiment)}
        lent = self._lend(experiment, settings)
        if (rows, settings) not in self._corpora:
            self._corpora[rows, settings] = tokenize_all(self._datasets[rows], lent.backbone)
        prepared = assemble(experiment, self._datasets[rows], self._corpora[rows, settings], lent.backbone)
        lent.remember(prepared.plan.shapes)
        return prepared

    def read(
        self, prepared: Prepared, phase: Phase, *, device: torch.device, observer: Observer
    ) -> tuple[dict[SplitName, Rows], Reading]:
        """Read the rows of the experiment prepared last as ``read_rows`` does.

        Raises:
            StorageError: see there.
        """
        lent = next(lent for lent in self._backbones.values() if lent.backbone is prepared.model.backbone)
        key = _reading_key(prepared, phase, device, lent.number)
        if not phase.pristine or key not in self._read:
            rows, reading = read_rows(prepared, phase, device=device, observer=observer)
            if not phase.pristine or reading.where == "recomputed":  # by this very model, so of no use to the next
                return rows, reading
            if reading.where == "memory":  # one such is enough
                self._read = {key: read for key, read in self._read.items() if read[1].where != "memory"}
            self._read[key] = rows, reading
            return rows, reading
        rows, reading = self._read[key]
        prepared.model.to(device)
        return rows, dataclasses.replace(reading, encoded=0, seconds=0.0)

    def _lend(self, experiment: Experiment, settings: str) -> "_Lent":
        """Return the backbone with the weights that it has when it is built."""
        seed = experiment.training.seed
        if any(key[0] != settings for key in self._backbones):  # one at a time, with what came of it
            self._backbones, self._read = {}, {}
        for lent in self._backbones.values():
            lent.restore()
        if (settings, seed) not in self._backbones:
            built = _Lent(build_backbone(experiment))
            others = self._backbones.values()
            # weights that are loaded are the same for every seed, and need not be held twice
            self._backbones[settings, seed] = next((other for other in others if other.equals(built)), built)
        return self._backbones[settings, seed]


class _Lent:
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

    def equals(self, other: "_Lent") -> bool:
        """Whether both have the same weights and buffers, to the last bit."""
        pairs = zip(tensors_of(self.backbone), tensors_of(other.backbone), strict=True)
        return all(
            one.dtype == another.dtype and torch.equal(one.cpu(), another.cpu()) for (_, one), (_, another) in pairs
        )


def _rows_key(experiment: Experiment) -> str:
    """What decides the dataset."""
    _, source = experiment.source
    return json.dumps([source.model_dump(mode="json"), {name: task.label for name, task in experiment.tasks.items()}])


def _reading_key(prepared: Prepared, phase: Phase, device: torch.device, backbone: int) -> str:
    """What decides the activations, and how they are kept."""
    experiment = prepared.experiment
    parts: list[Any] = [_rows_key(experiment), backbone]
    parts += [dataclasses.asdict(phase.cut), experiment.training.activation_dtype, experiment.training.store]
    if phase.cut.keeps == "pooled":
        parts += [experiment.pooling.model_dump(mode="json"), experiment.training.seed]
    return json.dumps([*parts, str(device)])
