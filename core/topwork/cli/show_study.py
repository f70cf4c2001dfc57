"""``topwork study``."""

import shlex
from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table

from topwork.cli.format import Format
from topwork.cli.output import Row, result_alone, rows_of_estimates, write_csv, write_json
from topwork.cli.show_comparison import describe_estimate, describe_seeds
from topwork.cli.show_training import ProgressBar, describe_power, make_progress
from topwork.cli.tables import console, describe_difference, heading, table
from topwork.experiment.schema import Experiment
from topwork.lab.study.report import rank
from topwork.lab.study.resolved_study import ResolvedStudy
from topwork.lab.study.result import FailedStudyError, StudyObserver, StudyResult, TrialSummary
from topwork.lab.study.run_study import study

#: How many trials the table shows.
SHOWN = 5


def show_study(experiment: Experiment, format: Format) -> None:
    """Print what is searched, search with a live table, then print what was found and what it is worth."""
    with result_alone(format):
        result, failed = _run(experiment)
        if format is Format.TABLE:
            show_result(result)
    if format is Format.CSV:
        write_csv(rows_of_trials(result))
    elif format is Format.JSON:
        write_json(
            {"study": result.name, "baseline": result.baseline, "best": result.best}
            | {"files": {str(number): str(file) for number, file in result.files.items()}}
            | {"trials": rows_of_trials(result)}
            | {"test": {str(number): rows_of_estimates(one.estimates) for number, one in result.evaluations.items()}}
            | {"warnings": result.warnings}
        )
    if failed:
        raise failed


def _run(experiment: Experiment) -> tuple[StudyResult, FailedStudyError | None]:
    """Carry out a study; return what was found, and the error where it did not come to its end."""
    try:
        with Live(console=console, transient=True, refresh_per_second=4) as live:
            return study(experiment, observer=StudyBar(live)), None
    except FailedStudyError as error:
        return error.result, error
    except (KeyboardInterrupt, SystemExit):
        console.print("interrupted; run the same command to resume", soft_wrap=True)
        raise


def rows_of_trials(result: StudyResult) -> list[Row]:
    """One row for each trial that counts, in the order of beginning."""
    return [
        {"trial": trial.number, "state": trial.state, **trial.parameters}
        | dict(zip(result.objectives, trial.values or [None] * len(result.objectives), strict=True))
        | {"training_seconds": trial.training_seconds, "reason": trial.reason}
        for trial in result.trials
    ]


def show_search(study: ResolvedStudy) -> None:
    """Print what a study searches, towards what, and how."""
    shown = table("search", "values", "#baseline")
    for searched in study.search:
        shown.add_row(searched.path, searched.dimension.describe(), describe_value(searched.baseline))
    console.print(shown)
    settings = study.settings
    seeds = f" with each of {len(study.seeds)} seeds" if len(study.seeds) > 1 else ""
    console.print(
        f"objective: {'; '.join(settings.objectives)}\n{study.n_trials} trials of at most {study.max_epochs} "
        f"epochs{seeds}, {min(settings.workers, study.n_trials)} workers, sampler {settings.sampler}, "
        f"pruner {settings.pruner}\n",
        soft_wrap=True,
    )


def show_result(result: StudyResult) -> None:
    """Print the best trials, what they change, and their test metrics next to those of the baseline."""
    for warning in result.warnings:
        console.print(f"note: {warning}", soft_wrap=True)
    counted = Counter(trial.state for trial in result.trials)
    console.print(
        f"study {result.name}: {counted['complete']} trials complete, {counted['pruned']} pruned, "
        f"{counted['failed']} failed, in {result.seconds:,.1f} s, {result.encoding_seconds:,.1f} s of them to encode",
        soft_wrap=True,
    )
    show_failures(result.trials)
    ranked = rank(result.trials, result.maximize)
    shown = ranked[: max(SHOWN, len(result.best))]
    shown += [trial for trial in ranked if trial.number == result.baseline and trial not in shown]
    console.print()
    heading("best trials" if len(result.objectives) == 1 else "trials, those of the Pareto front first")
    console.print(trials_table(shown, result.objectives, baseline=result.baseline))
    for number in result.best:
        show_changes(result, number)
        show_evaluation(result, number)
    console.print()
    for number, file in result.files.items():
        console.print(f"values of trial {number}:\n  topwork train {file}", soft_wrap=True)
    if result.tracking_uri:
        console.print(f"study {result.name} in {result.tracking_uri}", soft_wrap=True)
        if result.tracking_uri.startswith("sqlite"):
            console.print(f"  topwork ui --uri {shlex.quote(result.tracking_uri)}", soft_wrap=True)


class StudyBar(ProgressBar, StudyObserver):
    """A bar while texts are encoded, then the best trials above a bar; without a terminal a line for each trial."""

    def __init__(self, live: Live) -> None:
        super().__init__(make_progress(memory=600.0))
        self.live = live
        self.objectives: list[str] = []
        self.printed: set[int] | None = None

    def resolved(self, study: ResolvedStudy) -> None:
        show_search(study)
        self.objectives = study.settings.objectives
        self.live.update(self.progress)

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        if self.printed is None:
            self.begin("trials", n_trials)
            self.printed = {trial.number for trial in finished}
            if finished:
                console.print(f"resuming with {len(finished)} of {n_trials} trials finished", soft_wrap=True)
        for trial in finished:
            if trial.number not in self.printed and (trial.reason or not console.is_terminal):
                console.print(describe_trial(trial, self.objectives), soft_wrap=True)
        self.printed |= {trial.number for trial in finished}
        counted = Counter(trial.state for trial in finished)
        state = f"{running} running, {counted['pruned']} pruned, {counted['failed']} failed; trials"
        if self.bar is not None:
            self.progress.update(self.bar, completed=len(finished), description=state)
        best = [trial for trial in finished[:SHOWN] if trial.state == "complete"]
        self.live.update(Group(trials_table(best, self.objectives), self.progress) if best else self.progress)


def trials_table(trials: Sequence[TrialSummary], objectives: Sequence[str], *, baseline: int | None = None) -> Table:
    """Show trials with their values."""
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    shown = table("#trial", *(f"#{name}" for name in parameters), *(f"#{objective}" for objective in objectives), "")
    for trial in trials:
        values = [f"{value:.4f}" for value in trial.values] or [""] * len(objectives)
        chosen = [describe_value(trial.parameters.get(name)) for name in parameters]
        notes = [] if trial.state == "complete" else [str(trial.state)]
        notes += ["baseline"] if trial.number == baseline else []
        shown.add_row(str(trial.number), *chosen, *values, ", ".join(notes))
    return shown


def show_failures(trials: Sequence[TrialSummary]) -> None:
    """Print each reason with the trials that failed for it."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.reason:
            reasons.setdefault(trial.reason, []).append(str(trial.number))
    for reason, numbers in reasons.items():
        console.print(f"failed, trial {', '.join(numbers)}: {reason}", soft_wrap=True)


def show_changes(result: StudyResult, number: int) -> None:
    """Print in which settings a best trial differs from the experiment."""
    console.print()
    heading(f"trial {number} against the experiment")
    changes = table("setting", "#experiment", f"#trial {number}")
    for path, (before, after) in result.changes[number].items():
        changes.add_row(path, describe_value(before), describe_value(after))
    if number == result.baseline:
        console.print("the experiment's own values are the best")
    if result.changes[number]:
        console.print(changes)


def show_evaluation(result: StudyResult, number: int) -> None:
    """Print a best trial's test metrics next to those of the baseline."""
    best = result.evaluations.get(number)
    baseline = result.evaluations.get(result.baseline) if result.baseline is not None else None
    if best is None or not best.estimates:
        return
    console.print()
    first = next(iter(best.estimates.values()))
    heading(f"on {first.rows:,} test rows, which had no part in choosing{describe_seeds(first.seeds)}")
    if baseline is None or number == result.baseline:
        shown = table("metric", f"#trial {number}")
        for name, estimate in best.estimates.items():
            shown.add_row(name, describe_estimate(estimate))
    else:
        shown = table(
            "metric", f"#baseline, trial {result.baseline}", f"#trial {number}", "#gain", "#95 % interval", "#McNemar p"
        )
        for name, estimate in best.estimates.items():
            before, gain = (
                baseline.estimates.get(name),
                best.differences.get(name),
            )  # another head may measure something else
            shown.add_row(
                name,
                describe_estimate(before) if before else "",
                describe_estimate(estimate),
                *(describe_difference(gain) if gain else ()),
            )
    console.print(shown)
    if first.seeds > 1:
        console.print(describe_power(first.seeds), soft_wrap=True)


def describe_trial(trial: TrialSummary, objectives: Sequence[str]) -> str:
    """Write a trial on one line."""
    chosen = ", ".join(f"{name} {describe_value(value)}" for name, value in trial.parameters.items())
    values = ", ".join(f"{objective} {value:.4f}" for objective, value in zip(objectives, trial.values, strict=False))
    outcome = {"complete": values, "pruned": f"pruned at {values}" if values else "pruned", "failed": trial.reason}
    return f"trial {trial.number}: {chosen}: {outcome[trial.state]}"


def describe_value(value: object) -> str:
    """Write a setting's value in few digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
