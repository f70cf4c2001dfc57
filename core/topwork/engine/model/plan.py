"""The plan: the experiment resolved against the real model, checked before anything is computed."""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topwork.engine.model.cost import Cost, cost_per_text
from topwork.engine.model.multitask import Cut, MultiTaskModel
from topwork.engine.model.plugin_checks import METRIC_NAME, plugin_errors
from topwork.errors import PluginError
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Training
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig, ParameterGroup


@dataclass(frozen=True)
class CorpusSize:
    """How much there is to read, over all splits.

    Attributes:
        texts: N.
        tokens: of all N texts, special tokens included.
        distinct_texts, distinct_tokens: the same with equal texts counted once.
        truncated: how many of the N texts were cut at the maximum length.
    """

    texts: int
    tokens: int
    distinct_texts: int
    distinct_tokens: int
    truncated: int


@dataclass(frozen=True)
class Phase:
    """Epochs in a row in which the same parameters train.

    Attributes:
        first: its first epoch, from 1.
        unfrozen: the names of the backbone parameters that train.
        groups: the parameter groups that have parameters.
        cut: the boundary between prefix and suffix.
        prefix, suffix: the names of the stages on either side.
        width: columns of what is kept: of a hidden state, or of a pooled vector.
        prefix_is_pretrained: whether no stage before the cut was trained in an earlier phase. What the prefix gives is
            then of use to other runs too.
        cost: operations for a text of average length.
    """

    first: int
    unfrozen: tuple[str, ...]
    groups: tuple[ParameterGroup, ...]
    cut: Cut
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    width: int
    prefix_is_pretrained: bool
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """What trains when, in which group, at which rate, where the cut is, and what it will cost.

    Attributes:
        phases: by first epoch; most freeze strategies have one.
        shapes: the shape of each parameter that ever trains, by name.
        frozen: how many numbers stay as they are throughout.
        corpus_size: how much there is to read.
        bytes_per_value: of what is kept.
    """

    phases: tuple[Phase, ...]
    shapes: dict[str, tuple[int, ...]]
    frozen: int
    corpus_size: CorpusSize
    bytes_per_value: int

    @property
    def trainable_numbers(self) -> int:
        """How many numbers train in some phase."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def size(self, group: ParameterGroup) -> int:
        """How many numbers a group holds."""
        return sum(math.prod(self.shapes[name]) for name in group.parameters)

    def kept_bytes(self, phase: Phase) -> int:
        """The size of the activations of all distinct texts; 0 where nothing is kept."""
        texts, tokens = self.corpus_size.distinct_texts, self.corpus_size.distinct_tokens
        vectors = {"token ids": 0, "first token": texts, "pooled": texts, "tokens": tokens}
        return vectors[phase.cut.keeps] * self.bytes_per_vector(phase)

    def bytes_per_vector(self, phase: Phase) -> int:
        """The size of one vector that is kept."""
        return phase.width * self.bytes_per_value

    def phase_of(self, epoch: int) -> Phase:
        """Return the phase that an epoch, from 1, belongs to."""
        return next(phase for phase in reversed(self.phases) if phase.first <= epoch)

    def dump(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists
        size: dict[str, Any] = plain.pop("corpus_size")
        return plain | size | {"kept_bytes": [self.kept_bytes(phase) for phase in self.phases], "digest": self.digest}

    @property
    def digest(self) -> str:
        """sha256 of what decides the result: the phases' groups and cuts, and the shapes; not the data."""
        names = ("first", "groups", "prefix", "suffix", "cut")
        phases = [{name: dataclasses.asdict(phase)[name] for name in names} for phase in self.phases]
        return hashlib.sha256(json.dumps([phases, self.shapes], sort_keys=True).encode()).hexdigest()


def make_plan(
    model: MultiTaskModel,
    size: CorpusSize,
    freeze: FreezeStrategyConfig,
    optimizer: OptimizerGroupingConfig,
    settings: Training,
    *,
    origin: Origin,
) -> Plan:
    """Resolve what trains in every epoch, and leave ``model`` frozen and cut as in the first.

    Raises:
        ConfigurationError: a strategy's or grouping's settings do not fit the model; says where in ``origin`` they
            stand.
        PluginError: a plugin breaks its interface.
    """
    phases: list[Phase] = []
    trained: set[str] = set()
    parameters = dict(model.named_parameters())
    for epoch in range(1, settings.epochs + 1):
        with plugin_errors(freeze, origin.locate("freeze")):
            unfrozen = tuple(sorted(set(freeze.trainable(model, epoch))))
            if phases and unfrozen == phases[-1].unfrozen:
                continue
            model.set_trainable(unfrozen)
        with plugin_errors(optimizer, origin.locate("optimizer")):
            groups = tuple(group for group in optimizer.groups(model) if group.parameters)
            check_partition(model, groups, kind=optimizer.kind)
        phases.append(_make_phase(model, epoch, unfrozen, groups, trained, tokens=size.tokens / size.texts))
        trained |= {name for group in groups for name in group.parameters}
    model.set_trainable(phases[0].unfrozen)
    return Plan(
        phases=tuple(phases),
        shapes={name: tuple(parameters[name].shape) for name in parameters if name in trained},
        frozen=sum(parameter.numel() for name, parameter in parameters.items() if name not in trained),
        corpus_size=size,
        bytes_per_value=4 if settings.activation_dtype == "float32" else 2,
    )


def _make_phase(
    model: MultiTaskModel,
    epoch: int,
    unfrozen: tuple[str, ...],
    groups: tuple[ParameterGroup, ...],
    trained: set[str],
    *,
    tokens: float,
) -> Phase:
    """Describe the phase that begins with ``epoch``, after ``trained`` were trained, for texts of ``tokens`` tokens."""
    stages = model.backbone.stages()
    prefix = stages[: model.cut.stage]
    in_prefix = {id(p) for stage in prefix for module in stage.modules for p in module.parameters()}
    parameters = dict(model.named_parameters())
    return Phase(
        first=epoch,
        unfrozen=unfrozen,
        groups=groups,
        cut=model.cut,
        prefix=tuple(stage.name for stage in prefix),
        suffix=tuple(stage.name for stage in stages[model.cut.stage :]),
        width=model.pooling.width if model.cut.keeps == "pooled" else model.backbone.width,
        prefix_is_pretrained=not any(id(parameters[name]) in in_prefix for name in trained),
        cost=cost_per_text(model, tokens),
    )


def check_partition(model: MultiTaskModel, groups: Sequence[ParameterGroup], *, kind: str) -> None:
    """Check that every trainable parameter is in exactly one group, no frozen one in any, and rates are sound.

    Raises:
        PluginError: names the parameters for which that does not hold.
    """
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    grouped = Counter(name for group in groups for name in group.parameters)
    errors = {
        "in no group": trainable - grouped.keys(),
        "in several groups": {name for name, count in grouped.items() if count > 1},
        "in a group but frozen or unknown": grouped.keys() - trainable,
    }
    messages = [
        f"{error}: {', '.join(sorted(names)[:3])} ({len(names)} in all)" for error, names in errors.items() if names
    ]
    if len({group.name for group in groups}) < len(groups):
        messages.append(f"group names must differ, but are {', '.join(group.name for group in groups)}")
    messages += [
        f"a group's name has letters, digits, _ - . and spaces only, got {group.name!r}"
        for group in groups
        if not re.fullmatch(METRIC_NAME, group.name)
    ]
    for group in groups:
        for name, value in (("learning rate", group.learning_rate), ("weight decay", group.weight_decay)):
            if not 0 <= value < math.inf:
                messages.append(f"the {name} of group {group.name} must be a number from 0, but is {value}")
    if messages:
        raise PluginError("\n".join(f"optimizer grouping {kind!r}: {message}" for message in messages))
