"""Override settings of an experiment, and check beforehand that a study's values fit it."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from topwork.errors import ConfigurationError, shorten, text_of
from topwork.experiment.loading import error_messages
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Experiment
from topwork.experiment.study import Dimension, StudySettings
from topwork.registry import Registry

#: What a sampler sees of a value: itself, or, for a list or a section, its JSON.
ParamValue = str | int | float | bool | None


@dataclass(frozen=True)
class SearchedSetting:
    """One setting that a study varies.

    Attributes:
        path: of the setting.
        name: the shortest end of the path that no other searched path has.
        dimension: its values.
        integer: whether it takes whole numbers only.
        baseline: what the experiment itself has there; the first trial has it too, unless ``study.baseline`` is false.
    """

    path: str
    name: str
    dimension: Dimension
    integer: bool
    baseline: ParamValue

    @property
    def labels(self) -> dict[ParamValue, Any]:
        """The choices by label."""
        return {to_param_value(choice): choice for choice in self.dimension.choices or []}

    @property
    def count(self) -> int | None:
        """How many values there are to choose from; None for a range of real numbers without steps."""
        if self.integer and self.dimension.step is None:
            assert self.dimension.low is not None and self.dimension.high is not None
            return int(self.dimension.high) - int(self.dimension.low) + 1
        return self.dimension.count

    @property
    def values(self) -> list[Any]:
        """All values, where ``count`` says how many there are."""
        if self.dimension.choices is not None:
            return self.dimension.choices
        assert self.dimension.low is not None and self.count is not None
        return [self.dimension.low + number * (self.dimension.step or 1) for number in range(self.count)]

    def value(self, label: ParamValue) -> Any:
        """Return the value that a label stands for."""
        return label if self.dimension.choices is None else self.labels[label]


def with_overrides(experiment: Experiment, values: Mapping[str, Any], registry: Registry) -> Experiment:
    """Return the experiment with other values at some paths, its study section left out.

    Raises:
        ConfigurationError: they do not fit the schema or the installed plugins, one by one or together.
    """
    raw = copy.deepcopy(experiment.written())
    defaults = experiment.dump()
    for path, value in values.items():
        _put(raw, defaults, path.split("."), value)
    try:
        varied = Experiment.model_validate(raw, context={"registry": registry})
    except ValidationError as error:
        raise ConfigurationError("\n".join(error_messages(error, raw, Origin(), registry))) from None
    varied._origin = experiment.origin
    return varied


def resolve_search(experiment: Experiment, registry: Registry) -> list[SearchedSetting]:
    """Check a study's values one by one against the schema and the plugins.

    Raises:
        ConfigurationError: some do not fit, or the experiment's own value is none of them; names all such.
    """
    study = study_of(experiment)
    names = short_names(list(study.search))
    found: list[SearchedSetting] = []
    errors: list[str] = []
    for path, dimension in study.search.items():
        where = experiment.origin.locate("study", "search", path)
        try:
            integer = _check_values(experiment, path, dimension, registry)
            baseline = _baseline(experiment, path, dimension, registry, required=study.baseline)
        except ConfigurationError as error:
            errors += [f"{where}: {line}" for line in text_of(error).splitlines()]
        else:
            found.append(SearchedSetting(path, names[path], dimension, integer, baseline))
    if errors:
        raise ConfigurationError("\n".join(dict.fromkeys(errors)))
    return found


def study_of(experiment: Experiment) -> StudySettings:
    """Return the study section.

    Raises:
        ConfigurationError: there is none.
    """
    if experiment.study is None:
        raise ConfigurationError(
            f"{experiment.origin.locate()}: the experiment has no study section; add one, such as "
            "study: {search: {optimizer.heads_lr: {low: 1e-4, high: 1e-2, log: true}}, objective: loss}"
        )
    return experiment.study


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each path that no other path has, and that says more than ``kind`` or ``0``."""
    names = {}
    for path in paths:
        segments = path.split(".")
        says_little = segments[-1] == "kind" or segments[-1].isdecimal()
        shortest = 2 if says_little else 1
        ends = [".".join(segments[-length:]) for length in range(shortest, len(segments) + 1)]
        others = [f".{other}" for other in paths if other != path]
        names[path] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), path)
    return names


def to_param_value(value: Any) -> ParamValue:
    """Return what a sampler sees of a value."""
    return value if isinstance(value, ParamValue) else json.dumps(value)


def get(settings: Any, path: str) -> Any:
    """Return the value at a path.

    Raises:
        ConfigurationError: there is none.
    """
    at = settings
    for segment in path.split("."):
        if isinstance(at, dict) and segment in at:
            at = at[segment]
        elif isinstance(at, list) and segment.isdecimal() and int(segment) < len(at):
            at = at[int(segment)]
        else:
            raise ConfigurationError(f"the experiment has no setting {path}")
    return at


def _put(raw: dict[str, Any], defaults: dict[str, Any], segments: Sequence[str], value: Any) -> None:
    """Set a value. Where it is an item of a list that is not written, copy the list from ``defaults`` first."""
    at: Any = raw
    if len(segments) > 1 and isinstance(get(defaults, ".".join(segments[:-1])), list):
        get(defaults, ".".join(segments))  # a list has no other places
    for depth, segment in enumerate(segments[:-1], 1):
        if isinstance(at, dict) and not isinstance(at.get(segment), dict | list):
            whole = get(defaults, ".".join(segments[:depth]))
            at[segment] = copy.deepcopy(whole) if isinstance(whole, list) else {}
        at = at[segment] if isinstance(at, dict) else at[int(segment)]
    last = segments[-1]
    at[last if isinstance(at, dict) else int(last)] = copy.deepcopy(value)  # the choice itself must stay as it is


def _check_values(experiment: Experiment, path: str, dimension: Dimension, registry: Registry) -> bool:
    """Try each choice, or both bounds; return whether a range is one of whole numbers."""
    section, _, last = path.rpartition(".")
    around = get(experiment.dump(), section) if section else {}  # a typo in a section's name is reported as one
    if not (isinstance(around, dict | None) or (isinstance(around, list) and last in map(str, range(len(around))))):
        raise ConfigurationError(f"the experiment has no setting {path}")
    for value in dimension.extremes:
        try:
            with_overrides(experiment, {path: value}, registry)
        except ConfigurationError as error:
            raise ConfigurationError(_with_value(value, path, dimension, text_of(error))) from None
    if dimension.choices is not None or not (isinstance(dimension.low, int) and isinstance(dimension.high, int)):
        return False
    try:
        with_overrides(experiment, {path: dimension.low + 0.5}, registry)
    except ConfigurationError:
        if dimension.step is not None and dimension.step % 1:
            raise ConfigurationError(
                f"it takes whole numbers only, so step must be one, got {dimension.step:g}"
            ) from None
        return True
    return isinstance(dimension.step, int)


def _with_value(value: Any, path: str, dimension: Dimension, errors: str) -> str:
    """Say of each error which choice has it, and how to choose among plugins whose settings differ."""
    if dimension.choices is None:
        return errors
    section, _, last = path.rpartition(".")
    hint = f"; to change other settings with it, search {section}: {{choices: [{{kind: ...}}, ...]}}"
    lines = errors.splitlines()
    others = [last == "kind" and line.startswith(f"{section}.") for line in lines]
    return "\n".join(
        f"{shorten(str(value))}: {line}{hint if other else ''}" for line, other in zip(lines, others, strict=True)
    )


def _baseline(
    experiment: Experiment, path: str, dimension: Dimension, registry: Registry, *, required: bool
) -> ParamValue:
    """Return the experiment's own value.

    Raises:
        ConfigurationError: it is not among those to be searched, and is required to be.
    """
    value = get(experiment.dump(), path)
    if dimension.choices is None:
        if isinstance(value, int | float) and dimension.holds(value):
            return value
    else:
        for choice in dimension.choices:
            if get(with_overrides(experiment, {path: choice}, registry).dump(), path) == value:
                return to_param_value(choice)
    if not required:
        return to_param_value(value)
    raise ConfigurationError(
        f"the experiment's own value, {shorten(str(value))}, is not among {shorten(dimension.describe(), 200)}, but "
        "the first trial has it; widen the search, change the setting, or begin without it: study.baseline: false"
    )
