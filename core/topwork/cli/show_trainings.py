"""The progress of trainings that are compared."""

from rich.live import Live

from topwork.cli.show_training import ProgressBar, make_progress
from topwork.cli.tables import console
from topwork.lab.study.result import StudyObserver, TrialSummary


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
