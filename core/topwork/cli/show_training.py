"""``topwork train``."""

from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from topwork.cli.tables import console, show_estimates
from topwork.engine.training import Epoch, Observer
from topwork.experiment.schema import Experiment
from topwork.lab.runs import train


def show_training(experiment: Experiment, output: Path | None) -> None:
    """Train with a progress bar, then print the results and where they are."""
    with make_progress() as progress:
        result = train(experiment, output=output, observer=ProgressBar(progress))
    console.print()
    title = f"{result.split} rows, weights of epoch {result.best} of {len(result.epochs)}"
    show_estimates(result.estimates, title)
    console.print(f"\nmodel: {result.folder}\n  topwork predict {result.folder} 'a text'", soft_wrap=True)
    if result.tracking_uri:
        console.print(f"run {result.name} in {result.tracking_uri}", soft_wrap=True)
        if result.tracking_uri.startswith("sqlite"):
            console.print(f"  mlflow ui --backend-store-uri {result.tracking_uri}", soft_wrap=True)


def make_progress() -> Progress:
    """Build the bar."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


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
