"""The plan: the experiment resolved against the real model, checked before anything is computed."""

import dataclasses
import hashlib
import json
import logging
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from topwork.engine.model.cost import Cost, cost_per_text
from topwork.engine.model.multitask import MultiTaskModel, trains
from topwork.engine.model.plugin_checks import METRIC_NAME, plugin_errors
from topwork.engine.model.prefix import Cut
from topwork.errors import PluginError
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Training
from topwork.html import html_table
from topwork.interfaces.backbone import Stage
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.loss_weighting import LossWeighting
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig, ParameterGroup

#: The name of the group of a loss weighting's parameters, and what their names begin with.
WEIGHTING_GROUP = "weighting"

#: Epochs beyond which it is said that a freeze strategy is asked for each of them.
MANY_EPOCHS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusSize:
    """How much there is to read, over all splits.

    Attributes:
        texts: N; of texts that are divided, their windows.
        tokens: of all N texts, special tokens included.
        distinct_texts, distinct_tokens: the same with equal texts counted once.
        distinct_pooled, distinct_words: of how many of these heads read the pooled vector, and how many words of them.
        truncated: how many of the N texts were cut at the maximum length.
        unread_words: how many words were lost with that, of texts of which heads read words.
        divided: how many texts were divided into several windows.
    """

    texts: int
    tokens: int
    distinct_texts: int
    distinct_tokens: int
    distinct_pooled: int
    distinct_words: int
    truncated: int
    unread_words: int
    divided: int = 0

    @property
    def unit(self) -> str:
        """What is counted: texts, or the windows that they are divided into."""
        return "window" if self.divided else "text"


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
        unread_stages: the names of those that do not run, since the pooling reads nothing behind an earlier layer.
    """

    phases: tuple[Phase, ...]
    shapes: dict[str, tuple[int, ...]]
    frozen: int
    corpus_size: CorpusSize
    bytes_per_value: int
    unread_stages: tuple[str, ...] = ()

    @property
    def trainable_numbers(self) -> int:
        """How many numbers train in some phase."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def size(self, group: ParameterGroup) -> int:
        """How many numbers a group holds."""
        return sum(math.prod(self.shapes[name]) for name in group.parameters)

    def kept_bytes(self, phase: Phase) -> int:
        """The size of the activations of all distinct texts; 0 where nothing is kept."""
        size = self.corpus_size
        if phase.cut.keeps == "token ids":
            return 0
        of_tokens = size.distinct_tokens if phase.cut.keeps_every_token else size.distinct_words
        whole = size.distinct_texts if phase.cut.layers else size.distinct_pooled
        return (whole * phase.cut.leading + of_tokens) * self.bytes_per_vector(phase)

    def bytes_per_vector(self, phase: Phase) -> int:
        """The size of one vector that is kept."""
        return phase.width * self.bytes_per_value

    def phase_of(self, epoch: int) -> Phase:
        """Return the phase that an epoch, from 1, belongs to."""
        return self.phases[bisect_right(self.phases, epoch, key=lambda phase: phase.first) - 1]

    def _repr_html_(self) -> str:
        """Show what trains, for notebooks."""
        tables = [
            html_table(
                f"what trains from epoch {phase.first}; cut: {phase.cut.keeps} kept of each text, "
                f"{len(phase.prefix)} stages run once, {len(phase.suffix)} every epoch",
                ("group", "#tensors", "#numbers", "#learning rate", "#weight decay"),
                [
                    (
                        group.name,
                        len(group.parameters),
                        f"{self.size(group):,}",
                        group.learning_rate,
                        group.weight_decay,
                    )
                    for group in phase.groups
                ],
            )
            for phase in self.phases
        ]
        return "".join([*tables, f"<p>frozen throughout: {self.frozen:,} numbers; plan {self.digest[:12]}</p>"])

    def dump(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists
        size: dict[str, Any] = plain.pop("corpus_size")
        return plain | size | {"kept_bytes": [self.kept_bytes(phase) for phase in self.phases], "digest": self.digest}

    @property
    def digest(self) -> str:
        """sha256 of what trains: the phases' groups and cuts, and the shapes; not the data, and not how it is taken."""
        names = ("first", "groups", "prefix", "suffix", "cut")
        whole = [dataclasses.asdict(phase) for phase in self.phases]
        phases = [{name: phase[name] for name in names} for phase in whole]
        for phase in phases:
            if not phase["cut"]["layers"]:  # as before there were any
                del phase["cut"]["layers"]
        return hashlib.sha256(json.dumps([phases, self.shapes], sort_keys=True).encode()).hexdigest()


def make_plan(
    model: MultiTaskModel,
    size: CorpusSize,
    freeze: FreezeStrategyConfig,
    optimizer: OptimizerGroupingConfig,
    settings: Training,
    weighting: LossWeighting | None = None,
    *,
    origin: Origin,
) -> Plan:
    """Resolve what trains in every epoch, and leave ``model`` frozen and cut as in the first.

    Args:
        weighting: that of the losses, whose parameters train in a group of their own, in all phases.

    Raises:
        ConfigurationError: a strategy's or grouping's settings do not fit the model; says where in ``origin`` they
            stand.
        PluginError: a plugin breaks its interface.
    """
    parameters = dict(model.named_parameters())
    own = dict(weighting.named_parameters(prefix=WEIGHTING_GROUP)) if weighting else {}
    phases: list[Phase] = []
    known: dict[tuple[str, ...], Phase] = {}  # what a phase trains may train again
    trained: set[str] = set()
    for epoch, unfrozen in unfrozen_by_phase(model, freeze, settings.epochs, where=origin.locate("freeze")):
        if unfrozen in known:
            pretrained = _is_pretrained(model, known[unfrozen].cut, trained)
            phases.append(dataclasses.replace(known[unfrozen], first=epoch, prefix_is_pretrained=pretrained))
            continue
        with plugin_errors(freeze, origin.locate("freeze")):
            model.set_trainable(unfrozen)
            check_unread(model)
        with plugin_errors(optimizer, origin.locate("optimizer")):
            groups = tuple(group for group in map(_settled, optimizer.groups(model)) if group.parameters)
            check_partition(model, groups)
            if own and any(group.name == WEIGHTING_GROUP for group in groups):
                raise PluginError(f"no group may be named {WEIGHTING_GROUP}: it is that of the loss weighting")
        if weighting and own:
            groups += (ParameterGroup(WEIGHTING_GROUP, tuple(own), weighting.learning_rate, 0.0),)
        phases.append(_make_phase(model, epoch, unfrozen, groups, trained, size))
        known[unfrozen] = phases[-1]
        trained |= {name for group in groups for name in group.parameters}
    model.set_trainable(phases[0].unfrozen)
    return Plan(
        phases=tuple(phases),
        shapes={name: tuple(one.shape) for name, one in (parameters | own).items() if name in trained},
        frozen=sum(parameter.numel() for name, parameter in parameters.items() if name not in trained),
        corpus_size=size,
        bytes_per_value=4 if settings.activation_dtype == "float32" else 2,
        unread_stages=tuple(stage.name for stage in unread_stages(model)),
    )


def unread_stages(model: MultiTaskModel) -> Sequence[Stage]:
    """Return the stages behind the last layer that is read, which do not run."""
    return model.backbone.stages()[len(model.stages()) :]


def check_unread(model: MultiTaskModel) -> None:
    """Check that nothing is to train that no head reads.

    Raises:
        ValueError: a stage that does not run is to train.
    """
    trained = [stage.name for stage in unread_stages(model) if trains(*stage.modules)]
    if trained:
        last = model.stages()[-1].name
        raise ValueError(
            f"{trained[0]} is to train, but the pooling reads nothing behind {last}, so no gradient would reach it; "
            "freeze it, or let the pooling read a later layer"
        )


def unfrozen_by_phase(
    model: MultiTaskModel, freeze: FreezeStrategyConfig, epochs: int, *, where: str
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the first epoch of each phase, and the names of the backbone parameters that train in it, sorted.

    Raises:
        ConfigurationError: a setting does not fit the model; says ``where`` it stands.
        PluginError: the strategy breaks its interface: it gives no names, changes in an epoch that it does not say, or
            answers otherwise when it is asked again.
    """

    def ask(epoch: int) -> tuple[str, ...]:
        with plugin_errors(freeze, where):
            answer = freeze.trainable(model, epoch)
            if isinstance(answer, str | Mapping):
                raise PluginError(f"trainable must give a collection of names, got {answer!r:.60}")
            return tuple(sorted(set(answer)))

    answers = {1: ask(1)}
    with plugin_errors(freeze, where):
        starts = sorted({epoch for epoch in freeze.phase_starts(model, epochs) if 1 < epoch <= epochs})
    if len(starts) > MANY_EPOCHS:
        logger.warning("freeze strategy %r is asked what trains in each of %s epochs", freeze.kind, f"{len(starts):,}")
    yield 1, answers[1]
    last = 1
    for before, epoch in pairwise([1, *starts, epochs + 1]):
        if epoch - 1 > before and ask(epoch - 1) != answers[last]:
            with plugin_errors(freeze, where):
                raise PluginError(f"what trains changes by epoch {epoch - 1}, but phase_starts does not say so")
        if epoch <= epochs and (unfrozen := ask(epoch)) != answers[last]:
            answers[epoch], last = unfrozen, epoch
            yield epoch, unfrozen
    for epoch, unfrozen in answers.items():
        if ask(epoch) != unfrozen:
            with plugin_errors(freeze, where):
                raise PluginError(f"asked again what trains in epoch {epoch}, it gives another answer; it must be pure")


def _make_phase(
    model: MultiTaskModel,
    epoch: int,
    unfrozen: tuple[str, ...],
    groups: tuple[ParameterGroup, ...],
    trained: Collection[str],
    size: CorpusSize,
) -> Phase:
    """Describe the phase that begins with ``epoch``, after ``trained`` were trained."""
    stages = model.stages()
    return Phase(
        first=epoch,
        unfrozen=unfrozen,
        groups=groups,
        cut=model.cut,
        prefix=tuple(stage.name for stage in stages[: model.cut.stage]),
        suffix=tuple(stage.name for stage in stages[model.cut.stage :]),
        width=model.prefix.width,
        prefix_is_pretrained=_is_pretrained(model, model.cut, trained),
        cost=cost_per_text(model, tokens=size.tokens / size.texts, words=size.distinct_words / size.distinct_texts),
    )


def _is_pretrained(model: MultiTaskModel, cut: Cut, trained: Collection[str]) -> bool:
    """Whether no parameter left of the cut is among those that were trained."""
    modules = [module for stage in model.stages()[: cut.stage] for module in stage.modules]
    in_prefix = {id(parameter) for module in modules for parameter in module.parameters()}
    return not any(id(parameter) in in_prefix for name, parameter in model.named_parameters() if name in trained)


def _settled(group: ParameterGroup) -> ParameterGroup:
    """Return a group whose names can be read again, and whose rates are plain numbers.

    Raises:
        PluginError: the names are a text, the letters of which would be taken for names.
    """
    if isinstance(group.parameters, str):
        raise PluginError(f"the parameters of a group must be a tuple of names, got the text {group.parameters!r:.60}")
    return ParameterGroup(group.name, tuple(group.parameters), float(group.learning_rate), float(group.weight_decay))


def check_partition(model: MultiTaskModel, groups: Sequence[ParameterGroup]) -> None:
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
        raise PluginError("\n".join(messages))
