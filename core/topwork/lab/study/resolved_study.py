"""A study, resolved once: what is searched, towards what, and where its trials are kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork.engine.preparation import Preparation
from topwork.engine.preparation_cache import PreparationCache
from topwork.engine.training.early_stopping import metric_directions
from topwork.errors import ConfigurationError, text_of
from topwork.experiment.objective import Objective, greater_is_better, parse_objective
from topwork.experiment.schema import Experiment
from topwork.experiment.search import SearchedSetting, resolve_search, study_of, with_overrides
from topwork.experiment.source import FILE_FIELDS
from topwork.experiment.study import StudySettings
from topwork.lab.study.search_space import count_trials
from topwork.lab.tracking.store import flatten
from topwork.registry import Registry

#: The metrics of the validation rows, which objectives name without this.
VALIDATION = "validation/"

#: Settings that do not affect results, or are in the identity under another name.
NO_IDENTITY = ("name", "plugins", "tracking.", "training.store", "training.seed", "training.checkpoint_minutes")

#: Settings that studies of version 0.1 know nothing of; they are in the identity where they are not the default.
ADDED = re.compile(
    r"data\.[^.]+\.(on_faulty_rows|columns|words|hub)|backbone\.precision|optimizer\.no_decay|window(\..+)?|"
    r"training\.(stop|tasks|seeds|gradient_batches|optimizer|optimizer_options|cycles|power)|"
    r"tasks\.[^.]+\.(labels\..+|missing|monitor|patience|head\.(class_weights|label_smoothing))"
)


#: Of sections that studies of version 0.1 know nothing of, what trains as they did; it is not in the identity.
AS_BEFORE = {
    "sampling.kind": "proportional",
    "sampling.batches": "mixed",
    "weighting.kind": "fixed",
    "weighting.weights": "{}",
}


@dataclass(frozen=True)
class ResolvedStudy:
    """A study whose settings fit the schema and the installed plugins.

    Attributes:
        experiment: with its study section.
        settings: the study section.
        search: the settings that it varies.
        objectives: what to improve, in metrics without ``validation/``.
        seeds: every trial is trained with each.
        max_epochs: of a trial with one seed.
    """

    experiment: Experiment
    settings: StudySettings
    registry: Registry
    search: tuple[SearchedSetting, ...]
    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    max_epochs: int

    @property
    def name(self) -> str:
        """What the study continues under: its name, or the experiment's."""
        return self.settings.name or self.experiment.name

    @property
    def folder(self) -> Path:
        """Where the study's files are."""
        return Path("studies").resolve() / self.name

    @property
    def storage_url(self) -> str:
        """The URL of the study's database."""
        return self.settings.storage or f"sqlite:///{self.folder / 'study.db'}"

    @property
    def n_trials(self) -> int:
        """How many trials count at the end."""
        return count_trials(self.settings, self.search)

    @property
    def total_epochs(self) -> int:
        """Of a trial at most, all seeds together."""
        return self.max_epochs * len(self.seeds)

    def trial_experiment(self, values: Mapping[str, Any], seed: int | None = None) -> Experiment:
        """Return the experiment that a trial trains with one seed.

        Args:
            values: of the searched settings, by path.
            seed: the first of the study's seeds where it is not given.

        Raises:
            ConfigurationError: the values do not fit together.
        """
        seed = self.seeds[0] if seed is None else seed
        to_the_end = {"training.patience": None} if self.settings.epoch == "last" else {}
        one_seed = {"training.seeds": None, "training.seed": seed}
        return with_overrides(self.experiment, {**values, **to_the_end, **one_seed}, self.registry)


@dataclass(frozen=True)
class StudyPlan:
    """A study checked against the real model and rows, before anything is computed.

    Attributes:
        baseline: the experiment with its own values.
        maximize: for each objective, whether greater is better.
        identity: what must be the same when the study is resumed, in words.
    """

    baseline: Preparation
    maximize: tuple[bool, ...]
    identity: dict[str, str]


def resolve_study(experiment: Experiment, registry: Registry) -> ResolvedStudy:
    """Resolve the study section of an experiment.

    Raises:
        ConfigurationError: there is none, or a value does not fit; names all such.
    """
    settings = study_of(experiment)
    search = tuple(resolve_search(experiment, registry))
    of_epochs = [path for path in ("training", "training.epochs") if path in settings.search]
    extremes = [
        with_overrides(experiment, {path: one}, registry)
        for path in of_epochs
        for one in settings.search[path].extremes
    ]
    return ResolvedStudy(
        experiment,
        settings,
        registry,
        search,
        objectives=tuple(map(parse_objective, settings.objectives)),
        seeds=tuple(settings.seeds or experiment.training.seeds or [experiment.training.seed]),
        max_epochs=max(one.training.epochs for one in [experiment, *extremes]),
    )


def plan_study(study: ResolvedStudy, cache: PreparationCache) -> StudyPlan:
    """Resolve the plan with every bound and choice, one by one, and find the direction of each objective.

    Raises:
        TopworkError: something does not fit.
    """
    experiment = study.experiment
    errors: list[str] = []
    for searched in study.search:
        where = experiment.origin.locate("study", "search", searched.path)
        for value in searched.dimension.extremes:
            try:
                varied = with_overrides(experiment, {searched.path: value}, study.registry)
                _check_patience(varied.training.patience, experiment.training.patience, study.settings.epoch)
                cache.prepare(varied)
            except ConfigurationError as error:
                errors += [f"{where}: {value}: {line}" for line in text_of(error).splitlines()]
    baseline = cache.prepare(study.trial_experiment({}))
    try:
        maximize = check_objectives(study, baseline)
    except ConfigurationError as error:
        errors.append(str(error))
    if errors:
        raise ConfigurationError("\n".join(dict.fromkeys(errors)))
    return StudyPlan(baseline, maximize, identity_of(study, baseline.dataset.digest))


def check_objectives(study: ResolvedStudy, baseline: Preparation) -> tuple[bool, ...]:
    """Check that the objectives can be measured; return for each whether greater is better.

    Raises:
        ConfigurationError: there are no validation rows, a metric does not exist, or some should rise and others
            fall; or trials are to be evaluated by their best epoch, which is not kept.
    """
    experiment, splits = study.experiment, baseline.dataset.splits
    where = experiment.origin.locate("study", "objective")
    if "validation" not in splits:
        raise ConfigurationError(
            f"{where}: a study evaluates trials on validation rows, and there are none: set split.validation or a "
            "validation file"
        )
    if study.settings.epoch == "best" and experiment.training.patience is None:
        raise ConfigurationError(
            f"{experiment.origin.locate('study', 'epoch')}: best epochs are kept by training.patience, which is null; "
            "set it, to training.epochs to train them all, or set study.epoch: last"
        )
    directions = metric_directions(baseline.model.tasks, baseline.dataset.tasks_with_labels("validation"))
    on_validation = {
        name.removeprefix(VALIDATION): greater for name, greater in directions.items() if name.startswith(VALIDATION)
    }
    return tuple(_directions(study.objectives, on_validation, where))


def _directions(objectives: Sequence[Objective], directions: Mapping[str, bool], where: str) -> list[bool]:
    maximize: list[bool] = []
    errors: list[str] = []
    for objective in objectives:
        try:
            maximize.append(greater_is_better(objective, directions))
        except ValueError as error:
            errors += [f"{where}: {line}" for line in text_of(error).splitlines()]
    if errors:
        raise ConfigurationError("\n".join(errors))
    return maximize


def _check_patience(searched: int | None, baseline: int | None, epoch: str | None) -> None:
    """Check that a patience that is searched decides which epoch a trial is evaluated by.

    Raises:
        ConfigurationError: it does not.
    """
    if epoch == "last" and searched != baseline:
        raise ConfigurationError("study.epoch: last sets training.patience aside, so it cannot be searched")
    if epoch == "best" and searched is None:
        raise ConfigurationError("study.epoch: best needs training.patience in every trial, and here it is null")


def identity_of(study: ResolvedStudy, data_digest: str) -> dict[str, str]:
    """What must be the same when a study is resumed, in words."""
    settings = study.settings
    identity = {f"search of {one.path}": one.dimension.describe() for one in study.search}
    identity |= {"objective": "; ".join(settings.objectives), "epoch": settings.epoch or "as trained"}
    identity |= {"seeds": ", ".join(map(str, study.seeds)), "sha256 of the data": data_digest}
    identity |= {f"plugin file {file.path.name}": f"sha256 {file.sha256}" for file in study.experiment.plugins}
    files = [f"data.{source}.{field}" for source in study.experiment.data for field in FILE_FIELDS]
    set_otherwise = flatten(study.experiment.model_dump(mode="json", exclude_defaults=True))
    return identity | {
        path: str(value)
        for path, value in flatten(study.experiment.dump()).items()
        if not path.startswith(NO_IDENTITY)
        and path not in files
        and (path in set_otherwise or not ADDED.fullmatch(path))
        and AS_BEFORE.get(path) != str(value)
    }
