"""``topwork train``."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from topwork.cli.format import Format
from topwork.cli.output import Row, result_alone, rows_of_estimates, write_csv, write_json
from topwork.cli.tables import console, show_estimates
from topwork.engine.evaluation.comparison import Difference
from topwork.engine.evaluation.estimates import Estimate
from topwork.engine.model_manifest import PLUGINS
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.experiment.schema import Experiment
from topwork.lab.result import Result, SeedsResult, UnsavedError
from topwork.lab.runs import resume, train, train_seeds


def show_training(
    experiment: Experiment, output: Path | None, format: Format, *, alone: bool, allow_inexact: bool
) -> None:
    """Train with a progress bar, then print the results and where they are."""
    call = train if experiment.training.seeds is None else train_seeds
    _show(partial(call, experiment, output=output, alone=alone, allow_inexact=allow_inexact), format)


def show_resumption(run: Path, output: Path | None, format: Format, *, allow_inexact: bool) -> None:
    """Go on with a run that was interrupted, and print the same."""
    _show(partial(resume, run, output=output, allow_inexact=allow_inexact), format)


def _show(call: Callable[..., Result | SeedsResult], format: Format) -> None:
    """Carry out a run with a progress bar, then print the results and where they are."""
    try:
        with result_alone(format), make_progress() as progress:
            result = call(observer=ProgressBar(progress))
    except UnsavedError as error:
        show_result(error.result, format)
        raise
    if isinstance(result, Result):
        show_result(result, format)
    else:
        show_seeds(result, format)


def show_result(result: Result, format: Format) -> None:
    """Print the figures of a run, and where its model and its MLflow run are."""
    rows = rows_with_gains(result.estimates, result.against_alone)
    if format is Format.CSV:
        write_csv(rows)
        return
    if format is Format.JSON:
        places = {"run": result.name, "run_id": result.run_id, "model": str(result.folder), "split": result.split}
        figures = {"best_epoch": result.best_epoch, "best_epochs": result.best_epochs, "metrics": rows}
        write_json({**places, **figures, "warnings": result.warnings})
        return
    console.print()
    title = f"{result.split} rows, weights of epoch {result.best_epoch} of {len(result.epochs)}"
    if set(result.best_epochs.values()) != {result.best_epoch}:
        of_heads = ", ".join(f"{task} {epoch}" for task, epoch in result.best_epochs.items())
        title += f"; heads of epoch {of_heads}"
    show_estimates(result.estimates, title, against_alone=result.against_alone)
    if result.folder.exists():
        predict = f"topwork predict {shlex.quote(str(result.folder))} 'a text'{trust(result.folder)}"
        console.print(f"\nmodel: {result.folder}\n  {predict}", soft_wrap=True)
    show_run(result.name, result.tracking_uri)


def trust(model: Path) -> str:
    """Return the option without which a model is not loaded, because it has plugin files of its own."""
    return " --trust-plugins" if (model / PLUGINS).is_dir() else ""


def show_seeds(result: SeedsResult, format: Format) -> None:
    """Print the means over several seeds, and where their models and MLflow runs are."""
    rows = rows_with_gains(result.estimates, result.against_alone)
    if format is Format.CSV:
        write_csv(rows)
        return
    if format is Format.JSON:
        models = {str(seed): str(one.folder) for seed, one in result.by_seed.items()}
        places = {"run": result.name, "run_id": result.run_id, "models": models, "split": result.split}
        write_json({**places, "metrics": rows, "warnings": result.warnings})
        return
    console.print()
    seeds = ", ".join(map(str, result.by_seed))
    title = f"{result.split} rows, means over {len(result.by_seed)} seeds ({seeds})"
    show_estimates(result.estimates, title, against_alone=result.against_alone)
    console.print(describe_power(len(result.by_seed)), soft_wrap=True)
    console.print()
    for seed, one in result.by_seed.items():
        console.print(f"model of seed {seed}: {one.folder}", soft_wrap=True)
    show_run(result.name, result.tracking_uri)


def show_run(name: str, uri: str | None) -> None:
    """Print where a run is in MLflow, and how to look at it."""
    if uri:
        console.print(f"run {name} in {uri}", soft_wrap=True)
        if uri.startswith("sqlite"):
            console.print(f"  topwork ui --uri {shlex.quote(uri)}", soft_wrap=True)


def rows_with_gains(estimates: Mapping[str, Estimate], gains: Mapping[str, Difference]) -> list[Row]:
    """One row for each metric, with what tasks gained over being trained alone if that is known."""
    rows = rows_of_estimates(estimates)
    if not gains:
        return rows
    return [
        {**row, "alone": one.value - gain.value, "against_alone": gain.value}
        | {"against_alone_low": gain.low, "against_alone_high": gain.high}
        for row, one, gain in zip(rows, estimates.values(), [gains[name] for name in estimates], strict=True)
    ]


def describe_power(seeds: int) -> str:
    """Say what so many seeds can show."""
    least = 2 / 2**seeds
    if least <= 0.05:
        return f"a two-sided sign-flip test over {seeds} seeds can give a p of {least:.2g} at the least"
    return (
        f"with {seeds} seeds no two-sided sign-flip test over seeds can be significant at 5 %: its least p is "
        f"2/2^{seeds} = {least:.2g}; six seeds are the fewest"
    )


def make_progress(*, memory: float = 30.0) -> Progress:
    """Build the bar; its speed is that of the last ``memory`` seconds."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=memory,
    )


class Rate(ProgressColumn):
    """How many tokens or steps are done in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


class ProgressBar(Observer):
    """One bar for each phase, and a line for each epoch."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bar: TaskID | None = None

    def run(self, name: str) -> None:
        self.progress.console.print(name, soft_wrap=True)

    def begin(self, phase: str, total: int) -> None:
        if self.bar is not None:
            self.progress.remove_task(self.bar)
        self.bar = self.progress.add_task(phase, total=total)

    def advance(self, done: int) -> None:
        if self.bar is not None:
            self.progress.advance(self.bar, done)

    def resumed(self, epochs: Sequence[Epoch], steps: int) -> None:
        further = f" and {steps} {'step' if steps == 1 else 'steps'} of the next" if steps else ""
        done = f"{len(epochs)} {'epoch' if len(epochs) == 1 else 'epochs'}{further}"
        self.progress.console.print(f"going on after {done}", soft_wrap=True)

    def encoded(self, report: EncodingReport) -> None:
        self.progress.console.print(describe_encoding(report), soft_wrap=True)

    def epoch(self, epoch: Epoch) -> None:
        by_task: dict[str, list[str]] = {}
        for name, value in epoch.metrics.items():
            split, _, rest = name.partition("/")
            task, _, metric = rest.rpartition("/")
            if task:
                label = metric if metric != "loss" else f"{split} loss"
                by_task.setdefault(task, []).append(f"{label} {value:.3f}")
        shown = "   ".join(f"{task}: {', '.join(figures)}" for task, figures in by_task.items())
        self.progress.console.print(f"epoch {epoch.number:>3}   {shown}", soft_wrap=True)


def describe_encoding(report: EncodingReport) -> str:
    """Say how many texts were encoded, how fast, and where their activations are."""
    if report.where == "token ids":
        return "no activations are kept: the first stage trains"
    if report.where == "recomputed":
        return f"activations exceed the free memory and are computed for each batch; not stored: {report.note}"
    speed = f" in {report.seconds:.1f} s, {rate:,.1f} texts/s" if (rate := report.texts_per_second) else ""
    kept = f"kept in the store, {report.note[:12]}" if report.where == "store" else f"not stored: {report.note}"
    return f"{report.encoded:,} texts encoded{speed}, {report.found:,} found; {kept}"
