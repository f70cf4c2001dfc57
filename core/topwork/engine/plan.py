"""The plan: the experiment resolved against the real model, checked before anything is paid for."""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topwork.engine.checks import METRIC_NAME, blame
from topwork.engine.cost import Cost, cost_per_text
from topwork.engine.encoding import Corpus
from topwork.engine.model import Cut, MultiTaskModel
from topwork.errors import PluginError
from topwork.experiment.schema import Experiment
from topwork.interfaces.optimizer_grouping import ParameterGroup


@dataclass(frozen=True)
class Phase:
    """Epochs in a row in which the same parameters train.

    Attributes:
        first: its first epoch, from 1.
        thawed: the backbone parameters that train.
        groups: the parameter groups that have parameters.
        cut: the boundary between prefix and suffix.
        prefix, suffix: the names of the stages on either side.
        width: columns of what is kept: of a hidden state, or of a pooled vector.
        pristine: whether nothing left of the cut was trained in an earlier phase. What the prefix gives is
            then of use to other runs too.
        cost: operations for a text of average length.
    """

    first: int
    thawed: tuple[str, ...]
    groups: tuple[ParameterGroup, ...]
    cut: Cut
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    width: int
    pristine: bool
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """What trains when, in which group, at which rate, where the cut is, and what it will cost.

    Attributes:
        phases: by first epoch; most freeze strategies have one.
        shapes: the shape of each parameter that ever trains, by name.
        frozen: how many numbers stay as they are throughout.
        texts: N, over all splits.
        tokens: their tokens in all, special tokens included.
        distinct_texts, distinct_tokens: the same with equal texts counted once.
        truncated: how many texts were cut at the maximum length.
        bytes_per_value: of what is kept.
    """

    phases: tuple[Phase, ...]
    shapes: dict[str, tuple[int, ...]]
    frozen: int
    texts: int
    tokens: int
    distinct_texts: int
    distinct_tokens: int
    truncated: int
    bytes_per_value: int

    @property
    def trainable(self) -> int:
        """How many numbers train in some phase."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def size(self, group: ParameterGroup) -> int:
        """How many numbers a group holds."""
        return sum(math.prod(self.shapes[name]) for name in group.parameters)

    def kept_bytes(self, phase: Phase) -> int:
        """The size of the activations of all distinct texts; 0 where nothing is kept."""
        vectors = {"token ids": 0, "first token": self.distinct_texts, "pooled": self.distinct_texts}
        return vectors.get(phase.cut.keeps, self.distinct_tokens) * self.bytes_per_vector(phase)

    def bytes_per_vector(self, phase: Phase) -> int:
        """The size of one vector that is kept."""
        return phase.width * self.bytes_per_value

    def phase_of(self, epoch: int) -> Phase:
        """Return the phase that an epoch, from 1, belongs to."""
        return next(phase for phase in reversed(self.phases) if phase.first <= epoch)

    def dump(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        described = dataclasses.asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps(described))  # tuples become lists
        return plain | {"kept_bytes": [self.kept_bytes(phase) for phase in self.phases], "digest": self.digest}

    @property
    def digest(self) -> str:
        """sha256 of what decides the result: the phases' groups and cuts, and the shapes; not the data."""
        names = ("first", "groups", "prefix", "suffix", "cut")
        phases = [{name: dataclasses.asdict(phase)[name] for name in names} for phase in self.phases]
        return hashlib.sha256(json.dumps([phases, self.shapes], sort_keys=True).encode()).hexdigest()


def make_plan(experiment: Experiment, model: MultiTaskModel, corpus: Corpus) -> Plan:
    """Resolve what trains in every epoch, and leave ``model`` frozen and cut as in the first.

    Raises:
        ConfigurationError: a strategy's or grouping's settings do not fit the model.
        PluginError: a plugin breaks its interface.
    """
    phases: list[Phase] = []
    trained: set[str] = set()
    parameters = dict(model.named_parameters())
    for epoch in range(1, experiment.training.epochs + 1):
        with blame(experiment, "freeze"):
            thawed = tuple(sorted(set(experiment.freeze.trainable(model, epoch))))
            if phases and thawed == phases[-1].thawed:
                continue
            model.train_only(thawed)
        phases.append(_make_phase(experiment, model, epoch, thawed, trained, tokens=corpus.tokens / corpus.rows))
        trained |= {name for group in phases[-1].groups for name in group.parameters}
    model.train_only(phases[0].thawed)
    return Plan(
        phases=tuple(phases),
        shapes={name: tuple(parameters[name].shape) for name in parameters if name in trained},
        frozen=sum(parameter.numel() for name, parameter in parameters.items() if name not in trained),
        texts=corpus.rows,
        tokens=corpus.tokens,
        distinct_texts=len(corpus.token_ids.lengths),
        distinct_tokens=len(corpus.token_ids.values),
        truncated=corpus.truncated,
        bytes_per_value=4 if experiment.training.activation_dtype == "float32" else 2,
    )


def _make_phase(
    experiment: Experiment, model: MultiTaskModel, epoch: int, thawed: tuple[str, ...], trained: set[str], tokens: float
) -> Phase:
    """Describe the phase that begins with ``epoch``, after ``trained`` were trained, for texts of ``tokens`` tokens."""
    with blame(experiment, "optimizer"):
        groups = tuple(group for group in experiment.optimizer.groups(model) if group.parameters)
        check_partition(model, groups, kind=experiment.optimizer.kind)
    stages = model.backbone.stages()
    prefix = stages[: model.cut.stage]
    frozen_parts = {id(p) for stage in prefix for module in stage.modules for p in module.parameters()}
    parameters = dict(model.named_parameters())
    return Phase(
        first=epoch,
        thawed=thawed,
        groups=groups,
        cut=model.cut,
        prefix=tuple(stage.name for stage in prefix),
        suffix=tuple(stage.name for stage in stages[model.cut.stage :]),
        width=model.pooling.width if model.cut.keeps == "pooled" else model.backbone.width,
        pristine=not any(id(parameters[name]) in frozen_parts for name in trained),
        cost=cost_per_text(model, tokens),
    )


def check_partition(model: MultiTaskModel, groups: Sequence[ParameterGroup], *, kind: str) -> None:
    """Check that every trainable parameter is in exactly one group, no frozen one in any, and rates are sound.

    Raises:
        PluginError: names the parameters at fault.
    """
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    grouped = Counter(name for group in groups for name in group.parameters)
    faults = {
        "in no group": trainable - grouped.keys(),
        "in several groups": {name for name, count in grouped.items() if count > 1},
        "in a group but frozen or unknown": grouped.keys() - trainable,
    }
    said = [
        f"{fault}: {', '.join(sorted(names)[:3])} ({len(names)} in all)" for fault, names in faults.items() if names
    ]
    if len({group.name for group in groups}) < len(groups):
        said.append(f"group names must differ, but are {', '.join(group.name for group in groups)}")
    said += [
        f"a group's name has letters, digits, _ - . and spaces only, got {group.name!r}"
        for group in groups
        if not re.fullmatch(METRIC_NAME, group.name)
    ]
    for group in groups:
        for name, value in (("learning rate", group.learning_rate), ("weight decay", group.weight_decay)):
            if not 0 <= value < math.inf:
                said.append(f"the {name} of group {group.name} must be a number from 0, but is {value}")
    if said:
        raise PluginError("\n".join(f"optimizer grouping {kind!r}: {fault}" for fault in said))
