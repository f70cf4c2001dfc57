"""Check a study against schema, plugins, model and rows, before anything is paid for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topwork.engine.preparation import Prepared
from topwork.engine.workbench import Workbench
from topwork.errors import ConfigurationError
from topwork.experiment.schema import SPLITS, Experiment
from topwork.experiment.search import Searched, study_of, vary
from topwork.experiment.study import Study
from topwork.lab.study.trial import check_objectives, most_epochs, seeds_of, vary_trial
from topwork.lab.tracking.store import flatten
from topwork.registry import Registry

#: Settings without a bearing on results, or that stand in the identity otherwise.
NO_IDENTITY = ("name", "tracking.", "training.store", "training.seed")


@dataclass(frozen=True)
class Checked:
    """A study that has been checked.

    Attributes:
        searched: the settings that it varies.
        prepared: the experiment with its own values.
        rising: for each objective, whether greater is better.
    """

    experiment: Experiment
    registry: Registry
    searched: list[Searched]
    prepared: Prepared
    rising: list[bool]

    @property
    def study(self) -> Study:
        """The study section."""
        return study_of(self.experiment)

    @property
    def name(self) -> str:
        """What the study continues under."""
        return name_of(self.experiment)

    @property
    def folder(self) -> Path:
        """Where the study's files are."""
        return folder_of(self.experiment)

    @property
    def digest(self) -> str:
        """The sha256 of the data's files."""
        return self.prepared.dataset.digest

    @property
    def epochs(self) -> int:
        """Of a trial at most, all seeds together."""
        return most_epochs(self.experiment, self.registry) * len(seeds_of(self.experiment))

    @property
    def identity(self) -> dict[str, str]:
        """What must not change while a study goes on, in words."""
        identity = {f"search of {one.path}": one.dimension.describe() for one in self.searched}
        identity |= {"objective": "; ".join(self.study.objectives), "epoch": self.study.epoch or "as trained"}
        identity |= {"seeds": ", ".join(map(str, seeds_of(self.experiment))), "sha256 of the data": self.digest}
        source, _ = self.experiment.source
        files = [f"data.{source}.{field}" for field in ("path", *SPLITS)]
        settings = flatten(self.experiment.dump())
        return identity | {
            path: str(value)
            for path, value in settings.items()
            if not path.startswith(NO_IDENTITY) and path not in files
        }


def check(experiment: Experiment, registry: Registry, searched: Sequence[Searched], bench: Workbench) -> Checked:
    """Resolve the plan with every bound and choice, one by one, and find the objectives.

    Raises:
        TopworkError: something does not fit.
    """
    faults: list[str] = []
    for one in searched:
        for value in one.dimension.extremes:
            try:
                varied = vary(experiment, {one.path: value}, registry)
                check_patience(varied.training.patience, experiment)
                bench.prepare(varied)
            except ConfigurationError as fault:
                where = experiment.origin.locate("study", "search", one.path)
                faults += [f"{where}: {value}: {line}" for line in str(fault).splitlines()]
    prepared = bench.prepare(vary_trial(experiment, {}, seeds_of(experiment)[0], registry))
    try:
        rising = check_objectives(study_of(experiment), experiment, prepared)
    except ConfigurationError as fault:
        faults.append(str(fault))
    if faults:
        raise ConfigurationError("\n".join(dict.fromkeys(faults)))
    return Checked(experiment, registry, list(searched), prepared, rising)


def check_patience(patience: int | None, experiment: Experiment) -> None:
    """Check that a patience that is searched has a say in which epoch a trial is judged by.

    Raises:
        ConfigurationError: it has none.
    """
    epoch = study_of(experiment).epoch
    if epoch == "last" and patience != experiment.training.patience:
        raise ConfigurationError("study.epoch: last sets training.patience aside, so it cannot be searched")
    if epoch == "best" and patience is None:
        raise ConfigurationError("study.epoch: best needs training.patience in every trial, and here it is null")


def name_of(experiment: Experiment) -> str:
    """What a study continues under: its name, or the experiment's."""
    return study_of(experiment).name or experiment.name


def folder_of(experiment: Experiment) -> Path:
    """Where a study's files are."""
    return Path("studies").resolve() / name_of(experiment)


def url_of(experiment: Experiment) -> str:
    """The URL of a study's database."""
    return study_of(experiment).storage or f"sqlite:///{folder_of(experiment) / 'study.db'}"
