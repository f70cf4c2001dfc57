"""The schema of an experiment's study section: what to search, towards what, and how."""

import itertools
import json
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema, field_validator, model_validator

from topwork.errors import enumerate_names, quote
from topwork.experiment.objective import parse_objective
from topwork.experiment.section import Section
from topwork.interfaces.plugin import Count

MAX_NAME = 60
StudyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=MAX_NAME)]


def a_number(raw: object) -> int | float:
    """Let whole numbers be whole numbers, and refuse truth values."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"this must be a finite number, got {quote(raw)}")
    return raw


def an_objective(raw: object) -> str | list[str]:
    """Check that this is an objective, or a list of some that differ."""
    given = raw if isinstance(raw, list) else [raw]
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise ValueError(f"this must be an objective, such as sentiment/accuracy, or a list of some, got {quote(raw)}")
    for text in texts:
        parse_objective(text)
    if len(set(texts)) < len(texts):
        raise ValueError(f"objectives must differ, got {enumerate_names(texts)}")
    return texts if isinstance(raw, list) else texts[0]


Number = Annotated[int | float, PlainValidator(a_number), WithJsonSchema({"type": "number"})]

#: One metric, or an expression over several; or a list of such.
Objectives = Annotated[
    str | list[str],
    PlainValidator(an_objective),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]

#: What a study may not search: trials would be evaluated on different rows, or it has no bearing on their results.
FIXED = r"(name|study|data|tracking)(\..*)?|training\.seed|tasks(\.[^.]*(\.(label|labels(\..*)?|source))?)?"

#: How many values of one setting a grid may have; what enumerates them keeps them all in memory.
MAX_GRID_VALUES = 100_000


class Dimension(Section):
    """The values of one setting that a study may choose: from ``low`` to ``high``, or one of ``choices``.

    Attributes:
        low, high: bounds, both included. Whole numbers are searched where the setting takes no others.
        log: choose the logarithm evenly, as is fit for rates.
        step: choose low, low + step, low + 2 step, ...
        choices: any values, sections included: ``[{kind: all}, {kind: last_layers, count: 2}]``.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = Field(default=False, strict=True)
    step: Number | None = None
    choices: list[Any] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("give either low and high, or choices")
            if not all(map(_is_finite, self.choices)):
                raise ValueError(f"choices must be finite, got {quote(self.choices)}")
            if len({_comparable(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"choices must differ, got {quote(self.choices)}")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log goes with a low above 0 and without step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step:g}")
        if self.step is not None and not _is_multiple(self.high - self.low, self.step):
            raise ValueError(f"high must be some steps above low, but {self.high:g} is not")
        return self

    def holds(self, value: float) -> bool:
        """Whether a number lies between the bounds, and on a step."""
        assert self.low is not None and self.high is not None
        return self.low <= value <= self.high and (self.step is None or _is_multiple(value - self.low, self.step))

    @property
    def extremes(self) -> list[Any]:
        """Both bounds, or all choices."""
        return [self.low, self.high] if self.choices is None else self.choices

    @property
    def count(self) -> int | None:
        """How many values there are to choose from; None for a range without steps."""
        if self.choices is not None:
            return len(self.choices)
        if self.step is None:
            return None
        assert self.low is not None and self.high is not None
        return round((self.high - self.low) / self.step) + 1

    def describe(self) -> str:
        """Return the range or the choices in words."""
        if self.choices is not None:
            return f"choices {', '.join(map(str, self.choices))}"
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"


class SlurmSettings(Section):
    """What a worker asks SLURM for; it is a job of one task.

    Attributes:
        partition: where it runs; without it the cluster's default.
        hours: after which it is stopped, and queued again to go on.
        memory: in GB; without it what the cluster gives.
        cpus: as many threads train.
        gpus: without one, trials are trained on the CPU.
    """

    partition: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,-]+$", max_length=200)] | None = None
    hours: float = Field(default=4.0, strict=True, ge=0.1, le=8760)
    memory: float | None = Field(default=None, strict=True, gt=0, le=100_000)
    cpus: Annotated[Count, Field(le=1024)] = 1
    gpus: int = Field(default=0, strict=True, ge=0, le=64)


class StudySettings(Section):
    """A search over the experiment: many trainings, each with other values.

    Attributes:
        search: what may change, by path, such as ``optimizer.heads_lr: {low: 1e-4, high: 1e-2, log: true}``.
        objective: what to improve, on the validation rows: a metric such as ``sentiment/accuracy`` or ``loss``, or
            mean, min or max of some. Of several objectives no trial need be best at all; then none are pruned.
        trials: finished trials at the end, those that were pruned or failed included. No two have the same values,
            so there are no more than combinations of them.
        baseline: whether the first trial has the experiment's own values, which must then be among those searched.
        workers: processes of one thread each; with ``launcher: slurm`` jobs.
        launcher: where workers run: on this machine (``local``), or as jobs of a SLURM cluster (``slurm``) whose nodes
            share the study's folder, its storage and its tracking store.
        slurm: what each job asks for.
        sampler: what suggests values: ``tpe`` and ``gp`` learn from finished trials, ``random`` and ``grid`` do not.
        pruner: what ends trials early that do worse than others did: than their ``median`` at the same epoch, or
            by successive halving, ``hyperband``.
        timeout: seconds, from the command's beginning, after which no new trial begins; there is always one.
        seeds: every trial is trained once with each and evaluated by the mean; without them, with ``training.seed``.
        epoch: evaluate a training by its ``best`` epoch, which needs ``training.patience``, or by its ``last``, which
            disables early stopping. Without it by the epoch that ``topwork train`` would keep.
        storage: an RDB URL of Optuna's, such as ``postgresql://...``; without it a file in the study's folder.
        name: what the study continues under; without it the experiment's name.
    """

    search: dict[Annotated[str, StringConstraints(max_length=500)], Dimension] = Field(min_length=1)
    objective: Objectives
    trials: Count = 30
    baseline: bool = Field(default=True, strict=True)
    workers: Count = 2
    launcher: Literal["local", "slurm"] = "local"
    slurm: SlurmSettings | None = None
    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "none"
    timeout: float | None = Field(default=None, strict=True, gt=0, allow_inf_nan=False)
    seeds: Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**63)]], Field(min_length=1)] | None = None
    epoch: Literal["best", "last"] | None = None
    storage: str | None = None
    name: StudyName | None = None

    @field_validator("search")
    @classmethod
    def _searchable(cls, search: dict[str, Dimension]) -> dict[str, Dimension]:
        sections = [(path, choice) for path, one in search.items() for choice in one.choices or []]
        inside = [f"{path}.{key}" for path, choice in sections if isinstance(choice, dict) for key in choice]
        fixed = [path for path in dict.fromkeys([*search, *inside]) if re.fullmatch(FIXED, path)]
        if fixed:
            raise ValueError(
                f"{enumerate_names(fixed)} cannot be searched: trials must learn the same tasks from the same rows; "
                "for seeds, set study.seeds"
            )
        twice = [
            f"{inner} lies inside {outer}"
            for inner in search
            for outer in itertools.accumulate(inner.split(".")[:-1], lambda around, part: f"{around}.{part}")
            if outer in search
        ]
        if twice:
            raise ValueError(f"a setting can be searched once only, but {'; '.join(twice[:5])}")
        return search

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds and len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ, got {enumerate_names([str(seed) for seed in seeds])}")
        return seeds

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.slurm is not None and self.launcher != "slurm":
            raise ValueError(f"the section slurm goes with launcher: slurm, and launcher is {self.launcher}")
        if len(self.objectives) > 1 and self.pruner != "none":
            raise ValueError(
                f"pruner {self.pruner} compares trials by one objective; remove it, or combine the objectives"
            )
        if self.sampler == "grid":
            counts = {path: one.count for path, one in self.search.items()}
            open_ended = [path for path, count in counts.items() if count is None]
            if open_ended:
                raise ValueError(f"a grid needs choices or a step, but {enumerate_names(open_ended)} has neither")
            too_many = [f"{path} has {count:,}" for path, count in counts.items() if count and count > MAX_GRID_VALUES]
            if too_many:
                raise ValueError(
                    f"a grid has at most {MAX_GRID_VALUES:,} values of one setting, but {enumerate_names(too_many)}; "
                    "set a larger step, or another sampler"
                )
        return self

    @property
    def objectives(self) -> list[str]:
        """The objectives, of which there is one at least."""
        return [self.objective] if isinstance(self.objective, str) else self.objective


def _comparable(choice: object) -> object:
    """Something that is equal for equal choices, and can be looked up."""
    return json.dumps(choice, sort_keys=True, default=str) if isinstance(choice, list | dict) else choice


def _is_finite(value: object) -> bool:
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_multiple(distance: float, step: float) -> bool:
    steps = distance / step
    return math.isfinite(steps) and math.isclose(steps, round(steps), abs_tol=1e-9)
