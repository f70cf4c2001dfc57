"""What a study found: its trials, the best of them, and what they are worth on rows that had no part in choosing."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from ruamel.yaml import YAML
from torch import Tensor

from topwork.engine.comparison import Judged, difference, digest_of_texts, metrics_of
from topwork.engine.evaluation import estimate
from topwork.errors import StorageError, first_line
from topwork.experiment.schema import FILE_FIELDS, Experiment
from topwork.experiment.search import Searched, get
from topwork.files import write_file
from topwork.interfaces.head import Metric
from topwork.lab.study.checking import Checked
from topwork.lab.study.ledger import REASON, RUN, STATES, Ledger, values_of
from topwork.lab.study.result import Judgement, Trial
from topwork.lab.study.trial import seeds_of, vary_trial
from topwork.lab.study.worker_job import judged_file
from topwork.lab.tracking.store import Store
from topwork.lab.tracking.study_log import fetch_judged


def summarize(trials: Sequence[FrozenTrial]) -> list[Trial]:
    """Turn Optuna's trials that count into the study's."""
    return [
        Trial(
            number=trial.number,
            state=STATES[trial.state],
            parameters=dict(trial.params),
            values=tuple(trial.values or ()),
            reason=trial.user_attrs.get(REASON, ""),
            training_seconds=trial.user_attrs.get("training_seconds", 0.0),
        )
        for trial in trials
    ]


def find_own(trials: Sequence[Trial], searched: Sequence[Searched]) -> int | None:
    """Return the number of the complete trial with the experiment's own values."""
    own = {one.name: one.own for one in searched}
    return next((trial.number for trial in trials if trial.state == "complete" and trial.parameters == own), None)


def find_best(trials: Sequence[Trial], rising: Sequence[bool]) -> list[int]:
    """Return the number of the best complete trial, the first of equals; of several objectives the Pareto front.

    Values are equal that agree in six digits: the rest is the dust of float32.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    scores = {
        trial.number: [_score(value, rising=up) for value, up in zip(trial.values, rising, strict=True)]
        for trial in complete
    }
    if len(rising) == 1:
        return sorted(scores, key=lambda number: (-scores[number][0], number))[:1]
    return [
        number
        for number, score in scores.items()
        if not any(
            all(theirs >= ours for theirs, ours in zip(other, score, strict=True)) and other != score
            for other in scores.values()
        )
    ]


def rank(trials: Sequence[Trial], rising: Sequence[bool]) -> list[Trial]:
    """Return the trials with the best first; those that are not complete come last."""
    front = find_best(trials, rising)

    def place(trial: Trial) -> tuple[bool, bool, float, int]:
        score = _score(trial.values[0], rising=rising[0]) if trial.values else 0.0
        return trial.state != "complete", len(rising) > 1 and trial.number not in front, -score, trial.number

    return sorted(trials, key=place)


def changes_of(trial: Trial, checked: Checked) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which a trial differs from the experiment, own and new value by path."""
    before, after = checked.experiment.dump(), _varied(trial, checked).dump()
    paths = [one.path for one in checked.searched]
    paths += [] if "training" in paths else ["training.seed", "training.patience"]  # see vary_trial
    pairs = {path: (get(before, path), get(after, path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def write_experiment(path: Path, trial: Trial, checked: Checked) -> None:
    """Write the experiment with a trial's values, for ``topwork train``.

    Raises:
        StorageError: it could not be written.
    """
    written = _varied(trial, checked).written()
    for source in written["data"].values():
        for field in FILE_FIELDS:
            if source.get(field):  # that of an experiment made in Python may be relative to this folder
                source[field] = str(Path(source[field]).absolute())
    buffer = io.StringIO()
    YAML().dump(written, buffer)
    seeds = seeds_of(checked.experiment)
    which = f", judged by its mean over seeds {', '.join(map(str, seeds))}; this is the first" if seeds[1:] else ""
    head = f"# topwork train {path}\n#\n# Trial {trial.number} of study {checked.name}{which}.\n"
    write_file(path, (head + buffer.getvalue()).encode())


def judge(
    trials: Sequence[Trial], own: int | None, checked: Checked, ledger: Ledger, store: Store | None
) -> tuple[dict[int, Judgement], list[str]]:
    """Measure trials on the test rows, each against ``own``; and say of which the outputs cannot be had."""
    texts = digest_of_texts(checked.prepared.dataset.parts["test"].texts)
    runs = {trial.number: trial.user_attrs.get(RUN) for trial in ledger.finished()}
    judged: dict[int, Judged] = {}
    warnings = []
    for trial in trials:
        path, run_id = judged_file(checked.folder, ledger.id, trial.number), runs.get(trial.number)
        one, why = _outputs(path, store, run_id)
        if why:
            warnings.append(f"the outputs of trial {trial.number} on the test rows {why}")
        if one is None:
            continue
        if one.texts != texts:
            warnings.append(f"the outputs of trial {trial.number} are of other test rows and are left out")
        else:
            judged[trial.number] = one
    measures = {one.number: _measures(one, judged[one.number], checked) for one in trials if one.number in judged}
    reference = measures.get(own) if own is not None else None
    return {
        number: _judgement(one, None if number == own else reference, judged[number])
        for number, one in measures.items()
    }, warnings


def _outputs(path: Path, store: Store | None, run_id: str | None) -> tuple[Judged | None, str]:
    """Return what a trial's models said of the test rows, from this machine or else from MLflow, and what is amiss."""
    why = ""
    try:
        if path.exists():
            return Judged.from_bytes(path.read_bytes(), name=str(path)), ""
    except (StorageError, OSError) as fault:
        why = f"cannot be read: {first_line(fault)}"
    content = fetch_judged(store, run_id) if store and run_id else None
    if content is None:
        return None, why or f"are neither in {path.parent} nor in MLflow; another machine may have trained it"
    try:
        return Judged.from_bytes(content, name="what MLflow has"), why and f"{why}; MLflow's copy is used"
    except StorageError as fault:
        return None, f"cannot be read: {first_line(fault)}"


def _measures(trial: Trial, judged: Judged, checked: Checked) -> dict[str, tuple[Metric, Tensor]]:
    """Return the metrics of a trial's own heads, by ``<task>/<metric>``, with the outputs that they judge."""
    heads = {name: task.head for name, task in _varied(trial, checked).tasks.items()}
    return {
        f"{task}/{name}": (metric, judged.outputs[task])
        for task, head in heads.items()
        for name, metric in metrics_of(head, judged, task).items()
    }


def _judgement(
    measures: Mapping[str, tuple[Metric, Tensor]],
    reference: Mapping[str, tuple[Metric, Tensor]] | None,
    judged: Judged,
) -> Judgement:
    targets = {name: judged.targets[name.rpartition("/")[0]] for name in measures}
    return Judgement(
        estimates={name: estimate(*measure, targets[name]) for name, measure in measures.items()},
        gains={
            name: difference(reference[name], measure, targets[name])
            for name, measure in measures.items()
            if reference and name in reference
        },
    )


def _score(value: float, *, rising: bool) -> float:
    rounded = float(f"{value:.6g}")
    return rounded if rising else -rounded


def _varied(trial: Trial, checked: Checked) -> Experiment:
    values = values_of(trial.parameters, checked.searched)
    return vary_trial(checked.experiment, values, seeds_of(checked.experiment)[0], checked.registry)
