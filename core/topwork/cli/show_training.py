"""``topwork train``."""

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
from topwork.cli.output import result_alone, rows_of_estimates, write_csv, write_json
from topwork.cli.tables import console, show_estimates
from topwork.engine.observer import EncodingReport, Epoch, Observer
from topwork.experiment.schema import Experiment
from topwork.lab.result import Result, UnsavedError
from topwork.lab.runs import train


def show_training(experiment: Experiment, output: Path | None, format: Format) -> None:
    """Train with a progress bar, then print the results and where they are."""
    try:
        with result_alone(format), make_progress() as progress:
            result = train(experiment, output=output, observer=ProgressBar(progress))
    except UnsavedError as error:
        show_result(error.result, format)
        raise
    show_result(result, format)


def show_result(result: Result, format: Format) -> None:
    """Print the figures of a run, and where its model and its MLflow run are."""
    if format is Format.CSV:
        write_csv(rows_of_estimates(result.estimates))
        return
    if format is Format.JSON:
        places = {"run": result.name, "run_id": result.run_id, "model": str(result.folder), "split": result.split}
        figures = {"best_epoch": result.best_epoch, "metrics": rows_of_estimates(result.estimates)}
        write_json({**places, **figures, "warnings": result.warnings})
        return
    console.print()
    title = f"{result.split} rows, weights of epoch {result.best_epoch} of {len(result.epochs)}"
    show_estimates(result.estimates, title)
    if result.folder.exists():
        console.print(f"\nmodel: {result.folder}\n  topwork predict {result.folder} 'a text'", soft_wrap=True)
    if result.tracking_uri:
        console.print(f"run {result.name} in {result.tracking_uri}", soft_wrap=True)
        if result.tracking_uri.startswith("sqlite"):
            console.print(f"  topwork ui --uri {result.tracking_uri}", soft_wrap=True)


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

    def begin(self, phase: str, total: int) -> None:
        if self.bar is not None:
            self.progress.remove_task(self.bar)
        self.bar = self.progress.add_task(phase, total=total)

    def advance(self, done: int) -> None:
        if self.bar is not None:
            self.progress.advance(self.bar, done)

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
