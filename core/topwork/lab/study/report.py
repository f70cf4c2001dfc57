"""What a study found: its trials, the best of them, and what they are worth on rows that had no part in choosing."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from ruamel.yaml import YAML
from torch import Tensor

from topwork.data.dataset import DataSplit
from topwork.engine.evaluation.comparison import SplitOutputs, difference, digests_of_texts, metrics_of
from topwork.engine.evaluation.estimates import estimate
from topwork.errors import StorageError, first_line
from topwork.experiment.schema import Experiment
from topwork.experiment.search import SearchedSetting, get
from topwork.experiment.source import FILE_FIELDS
from topwork.files import write_file
from topwork.interfaces.head import Metric
from topwork.lab.study.resolved_study import ResolvedStudy
from topwork.lab.study.result import TrialEvaluation, TrialSummary
from topwork.lab.study.search_space import values_of
from topwork.lab.study.trial_queue import TrialQueue
from topwork.lab.study.trial_states import NOTES, REASON, RUN, STATES
from topwork.lab.study.worker_job import outputs_file
from topwork.lab.tracking.store import TrackingStore
from topwork.lab.tracking.study_log import fetch_outputs

#: A metric, the outputs (N, C) of each seed's model, and the targets (N,).
Measured = tuple[Metric, Sequence[Tensor]]


def summarize(trials: Sequence[FrozenTrial]) -> list[TrialSummary]:
    """Turn Optuna's finished trials into the study's."""
    return [
        TrialSummary(
            number=trial.number,
            state=STATES[trial.state],
            parameters=dict(trial.params),
            values=tuple(trial.values or ()),
            reason=trial.user_attrs.get(REASON, ""),
            training_seconds=trial.user_attrs.get("training_seconds", 0.0),
            notes=tuple(trial.user_attrs.get(NOTES, ())),
        )
        for trial in trials
    ]


def find_baseline(trials: Sequence[TrialSummary], search: Sequence[SearchedSetting]) -> int | None:
    """Return the number of the complete trial with the experiment's own values."""
    values = {searched.name: searched.baseline for searched in search}
    return next((trial.number for trial in trials if trial.state == "complete" and trial.parameters == values), None)


def find_best(trials: Sequence[TrialSummary], maximize: Sequence[bool]) -> list[int]:
    """Return the number of the best complete trial, the first of equals; of several objectives the Pareto front.

    Values are equal that agree in six digits: what is left is rounding in float32.
    """
    complete: list[TrialSummary] = []
    for trial in trials:  # of those with the same values, which earlier versions trained, the first
        if trial.state == "complete" and trial.parameters not in (other.parameters for other in complete):
            complete.append(trial)
    if len(maximize) == 1:
        ranked = sorted(complete, key=lambda trial: (-_score(trial.values[0], maximize=maximize[0]), trial.number))
        return [trial.number for trial in ranked[:1]]
    study = optuna.create_study(directions=["maximize" for _ in maximize])
    for trial in complete:
        scores = [_score(value, maximize=up) for value, up in zip(trial.values, maximize, strict=True)]
        study.add_trial(create_trial(values=scores))
    return [complete[trial.number].number for trial in study.best_trials]


def rank(trials: Sequence[TrialSummary], maximize: Sequence[bool]) -> list[TrialSummary]:
    """Return the trials with the best first; those that are not complete come last."""
    front = find_best(trials, maximize)

    def key(trial: TrialSummary) -> tuple[bool, bool, float, int]:
        score = _score(trial.values[0], maximize=maximize[0]) if trial.values else 0.0
        return trial.state != "complete", len(maximize) > 1 and trial.number not in front, -score, trial.number

    return sorted(trials, key=key)


def changes_of(trial: TrialSummary, study: ResolvedStudy) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which a trial differs from the experiment, its own and the new value by path."""
    before, after = study.experiment.dump(), _experiment_of(trial, study).dump()
    paths = [searched.path for searched in study.search]
    paths += [] if "training" in paths else ["training.seed", "training.patience"]  # see trial_experiment
    pairs = {path: (get(before, path), get(after, path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def write_experiment(path: Path, trial: TrialSummary, study: ResolvedStudy) -> None:
    """Write the experiment with a trial's values, for ``topwork train``.

    Raises:
        StorageError: it could not be written.
    """
    written = _experiment_of(trial, study).written()
    for source in written["data"].values():
        for field in FILE_FIELDS:
            if source.get(field):  # that of an experiment made in Python may be relative to this folder
                source[field] = str(Path(source[field]).absolute())
    buffer = io.StringIO()
    YAML().dump(written, buffer)
    seeds = ", ".join(map(str, study.seeds))
    which = f", evaluated by its mean over seeds {seeds}; this is the first" if len(study.seeds) > 1 else ""
    head = f"# topwork train {path}\n#\n# Trial {trial.number} of study {study.name}{which}.\n"
    write_file(path, (head + buffer.getvalue()).encode())


def evaluate_trials(
    trials: Sequence[TrialSummary],
    baseline: int | None,
    study: ResolvedStudy,
    queue: TrialQueue,
    test_rows: DataSplit,
    store: TrackingStore | None,
) -> tuple[dict[int, TrialEvaluation], list[str]]:
    """Measure trials on the test rows, each against the baseline; and say of which the outputs cannot be had."""
    texts_sha256 = digests_of_texts(test_rows)
    runs = {trial.number: trial.user_attrs.get(RUN) for trial in queue.finished()}
    outputs: dict[int, SplitOutputs] = {}
    warnings = []
    for trial in trials:
        path = outputs_file(study.folder, queue.id, trial.number)
        found, why = find_outputs(path, store, runs.get(trial.number))
        if why:
            warnings.append(f"the outputs of trial {trial.number} on the test rows {why}")
        if found is None:
            continue
        if any(texts_sha256.get(task) != digest for task, digest in found.texts_sha256.items()):
            warnings.append(f"the outputs of trial {trial.number} are of other test rows and are left out")
        else:
            outputs[trial.number] = found
    measured = {one.number: _measured(one, outputs[one.number], study) for one in trials if one.number in outputs}
    reference = measured.get(baseline, {}) if baseline is not None else {}
    return {
        number: _evaluate(one, {} if number == baseline else reference, outputs[number])
        for number, one in measured.items()
    }, warnings


def find_outputs(path: Path, store: TrackingStore | None, run_id: str | None) -> tuple[SplitOutputs | None, str]:
    """Return a trial's outputs for the test rows, from this machine or else from MLflow, and what is amiss."""
    why = ""
    try:
        if path.exists():
            return SplitOutputs.from_bytes(path.read_bytes(), name=str(path)), ""
    except (StorageError, OSError) as error:
        why = f"cannot be read: {first_line(error)}"
    content = fetch_outputs(store, run_id) if store and run_id else None
    if content is None:
        return None, why or f"are neither in {path.parent} nor in MLflow; another machine may have trained it"
    try:
        return SplitOutputs.from_bytes(content, name="what MLflow has"), why and f"{why}; MLflow's copy is used"
    except StorageError as error:
        return None, f"cannot be read: {first_line(error)}"


def _measured(trial: TrialSummary, outputs: SplitOutputs, study: ResolvedStudy) -> dict[str, Measured]:
    """Return the metrics of a trial's own heads, by ``<task>/<metric>``, with the outputs that they measure."""
    return {
        f"{name}/{metric}": (measure, outputs.by_seed(name))
        for name, task in _experiment_of(trial, study).tasks.items()
        if name in outputs.outputs
        for metric, measure in metrics_of(task.head, outputs, name).items()
    }


def _evaluate(
    measured: Mapping[str, Measured], reference: Mapping[str, Measured], outputs: SplitOutputs
) -> TrialEvaluation:
    targets = {name: outputs.targets[name.rpartition("/")[0]] for name in measured}
    return TrialEvaluation(
        estimates={name: estimate(*one, targets[name]) for name, one in measured.items()},
        differences={
            name: difference(reference[name], one, targets[name]) for name, one in measured.items() if name in reference
        },
    )


def _score(value: float, *, maximize: bool) -> float:
    rounded = float(f"{value:.6g}")
    return rounded if maximize else -rounded


def _experiment_of(trial: TrialSummary, study: ResolvedStudy) -> Experiment:
    return study.trial_experiment(values_of(trial.parameters, study.search))
