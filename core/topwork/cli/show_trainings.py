"""Trainings that are compared: their progress, and what came of them."""

from collections.abc import Callable
from typing import TypeVar

from rich.live import Live

from topwork.cli.format import Format
from topwork.cli.output import result_alone, write_csv, write_json
from topwork.cli.show_training import ProgressBar, make_progress
from topwork.cli.tables import console
from topwork.lab.study.grid_result import GridResult
from topwork.lab.study.result import StudyObserver, TrialSummary

Result = TypeVar("Result", bound=GridResult)


def show_trainings(
    train: Callable[[StudyObserver], Result], format: Format, show: Callable[[Result], None], *, table: str
) -> None:
    """Train with a progress bar, then print what came of it.

    Args:
        show: prints it for people.
        table: what its rows are called in JSON.
    """
    try:
        with result_alone(format), Live(console=console, transient=True, refresh_per_second=4) as live:
            result = train(TrainingsBar(live))
    except (KeyboardInterrupt, SystemExit):
        console.print("interrupted; run the same command to go on", soft_wrap=True)
        raise
    if format is Format.CSV:
        write_csv(result.rows)
    elif format is Format.JSON:
        places = {"study": result.name, "run_id": result.run_id, "seeds": list(result.seeds)}
        seconds = {"seconds": result.seconds, "encoding_seconds": result.encoding_seconds}
        seconds |= {"training_seconds": result.training_seconds}
        write_json({**places, **seconds, table: result.rows, "warnings": result.warnings})
    else:
        show(result)


class TrainingsBar(ProgressBar, StudyObserver):
    """A bar while texts are encoded, then one for trainings."""

    def __init__(self, live: Live) -> None:
        super().__init__(make_progress(memory=600.0))
        self.told: set[int] = set()
        live.update(self.progress)

    def trials(self, finished: list[TrialSummary], running: int, n_trials: int) -> None:
        if not self.told:
            self.begin("trainings", n_trials)
            self.told.add(-1)
        for trial in finished:
            if trial.number not in self.told and trial.reason:
                console.print(f"training {trial.number} failed: {trial.reason}", soft_wrap=True)
            self.told.add(trial.number)
        if self.bar is not None:
            self.progress.update(self.bar, completed=len(finished))
