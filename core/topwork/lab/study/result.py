"""What a study hands to whoever reports it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.observer import Observer
from topwork.errors import StudyError

if TYPE_CHECKING:
    from topwork.lab.study.resolved_study import ResolvedStudy

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialSummary:
    """A finished trial.

    Attributes:
        number: in the order of beginning, from 0; those that were interrupted leave gaps.
        state: ``pruned`` if it was ended early, ``failed`` if it ended for the given reason.
        parameters: the searched values by short name.
        values: of the objectives, on the validation rows; of a pruned trial the last one known.
        reason: why it failed; empty if it did not.
        training_seconds: in the training loop; 0 where it did not end there.
        notes: what the researcher should know of it.
    """

    number: int
    state: State
    parameters: dict[str, Any]
    values: tuple[float, ...]
    reason: str = ""
    training_seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialEvaluation:
    """A trial on the test rows, which had no part in choosing it.

    Attributes:
        estimates: every metric with its interval, by ``<task>/<metric>``.
        differences: from the baseline trial on the same rows.
    """

    estimates: dict[str, Estimate]
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study.

    Attributes:
        name: the study's.
        folder: where its files are.
        storage: the URL of Optuna's database, without a password.
        objectives: as they were written.
        maximize: for each objective, whether greater is better.
        trials: those that count, by number.
        baseline: the number of the trial with the experiment's own values; None where it failed.
        best: the number of the best trial; of several objectives, those of the Pareto front.
        changes: for each best trial, the settings that differ from the experiment: its own and the best value by path.
        files: for each best trial, an experiment that ``topwork train`` takes.
        evaluations: of the best trials and the baseline, by number; empty where there are no test rows.
        run_id: of the study's run in MLflow, None without tracking.
        tracking_uri: the MLflow store, None without tracking.
        seconds: how long this took from beginning to end, in this process.
        encoding_seconds: of them, for encoding texts before the first trial.
        warnings: what the researcher should know.
    """

    name: str
    folder: Path
    storage: str
    objectives: tuple[str, ...]
    maximize: tuple[bool, ...]
    trials: list[TrialSummary]
    baseline: int | None
    best: list[int]
    changes: dict[int, dict[str, tuple[Any, Any]]]
    files: dict[int, Path]
    evaluations: dict[int, TrialEvaluation]
    run_id: str | None
    tracking_uri: str | None
    seconds: float
    encoding_seconds: float
    warnings: list[str]


class FailedStudyError(StudyError):
    """A study did not come to its end; ``result`` is what it found."""

    def __init__(self, message: str, result: StudyResult) -> None:
        super().__init__(message)
        self.result = result


class StudyObserver(Observer):
    """Callbacks of a study; what is not overridden is ignored. ``begin`` and ``advance`` are called for encoding."""

    def resolved(self, study: "ResolvedStudy") -> None:
        """The study's settings fit the schema and the installed plugins."""

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        """Called some times a second; the finished trials come with the best first."""
