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
from topwork.engine.model import Cut, MultiTaskModel
from topwork.errors import ConfigurationError, PluginError
from topwork.experiment.schema import Experiment
from topwork.interfaces.optimizer_grouping import ParameterGroup


@dataclass(frozen=True)
class Plan:
    """What trains, in which group, at which rate, where the cut is, and what it will cost.

    Attributes:
        groups: the parameter groups that have parameters.
        shapes: the shape of each trainable parameter, by name.
        frozen: how many numbers stay as they are.
        cut: the boundary between prefix and suffix.
        prefix, suffix: the names of the stages on either side.
        texts: N, over all splits.
        tokens: their tokens in all, special tokens included.
        truncated: how many texts were cut at the maximum length.
        cost: operations for a text of average length.
        width: columns of what is kept: of a hidden state, or of a pooled vector.
    """

    groups: tuple[ParameterGroup, ...]
    shapes: dict[str, tuple[int, ...]]
    frozen: int
    cut: Cut
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    texts: int
    tokens: int
    truncated: int
    cost: Cost
    width: int

    @property
    def trainable(self) -> int:
        """How many numbers train."""
        return sum(self.size(group) for group in self.groups)

    def size(self, group: ParameterGroup) -> int:
        """How many numbers a group holds."""
        return sum(math.prod(self.shapes[name]) for name in group.parameters)

    @property
    def kept_bytes(self) -> int:
        """The size of all activations, in float32; 0 where nothing is kept."""
        rows = {"token ids": 0, "first token": self.texts, "pooled": self.texts, "tokens": self.tokens}
        return rows[self.cut.keeps] * self.width * 4

    def dump(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        described = dataclasses.asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps(described))  # tuples become lists
        return plain | {"kept_bytes": self.kept_bytes, "digest": self.digest}

    @property
    def digest(self) -> str:
        """sha256 of what decides the result: the groups, the shapes and the cut; not the data."""
        decisive = {name: dataclasses.asdict(self)[name] for name in ("groups", "shapes", "prefix", "suffix", "cut")}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def make_plan(experiment: Experiment, model: MultiTaskModel, *, texts: int, tokens: int, truncated: int) -> Plan:
    """Freeze ``model`` as the experiment says, move its cut, and check the optimizer's groups.

    Raises:
        ConfigurationError: a strategy's or grouping's settings do not fit the model.
        PluginError: a plugin breaks its interface.
    """
    with blame(experiment, "freeze"):
        model.train_only(frozenset(experiment.freeze.trainable(model, 1)))
        for epoch in range(2, experiment.training.epochs + 1):
            _refuse_change(experiment, model, epoch)
    with blame(experiment, "optimizer"):
        groups = tuple(group for group in experiment.optimizer.groups(model) if group.parameters)
        check_partition(model, groups, kind=experiment.optimizer.kind)
    parameters = dict(model.named_parameters())
    names = tuple(stage.name for stage in model.backbone.stages())
    return Plan(
        groups=groups,
        shapes={name: tuple(parameters[name].shape) for group in groups for name in group.parameters},
        frozen=sum(parameter.numel() for parameter in parameters.values() if not parameter.requires_grad),
        cut=model.cut,
        prefix=names[: model.cut.stage],
        suffix=names[model.cut.stage :],
        texts=texts,
        tokens=tokens,
        truncated=truncated,
        cost=cost_per_text(model, tokens / texts),
        width=model.pooling.width if model.cut.keeps == "pooled" else model.backbone.width,
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


def _refuse_change(experiment: Experiment, model: MultiTaskModel, epoch: int) -> None:
    """Refuse a strategy that thaws or freezes during a run: the plan would not hold."""
    wanted = set(experiment.freeze.trainable(model, epoch))
    now = {f"backbone.{name}" for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    if wanted != now:
        raise ConfigurationError(
            f"freeze strategy {experiment.freeze.kind!r} changes what trains in "
            f"epoch {epoch}; this version trains the same parameters in all epochs"
        )
