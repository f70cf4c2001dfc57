"""What the MLflow runs of a study are yet to get, in the study's folder: each run has a folder of its own.

Workers of any machine leave it there while the store is away, and the command that ends the study sends it, or the same
command when it goes on.
"""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from topwork.errors import StorageError, first_line
from topwork.files import holding, write_file
from topwork.lab.tracking.store import TrackingStore, redact_uri, root_cause
from topwork.lab.tracking.unsent import Unsent
from topwork.lab.tracking.write import RunEditor

#: The folder in that of the study, and the file that has MLflow's id of a run that was created.
WAITING, RUN_FILE = "tracking", "mlflow_run"

#: The name of the study's own run among those of its trials.
STUDY = "study"

logger = logging.getLogger(__name__)


class StudyUnsent(Unsent):
    """The writes that one run of a study is yet to get.

    Args:
        folder: of the study.
        study_id: tells the study from others of its name.
        run: the number of the trial, or ``STUDY``.
    """

    def __init__(self, folder: Path, study_id: str, run: str) -> None:
        self.path = folder / WAITING / study_id / run
        super().__init__(self.path, folder)

    @property
    def remedy(self) -> str:
        return "they are sent when the study ends, or by the same command"

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty where it is yet to be created."""
        file = self.path / RUN_FILE
        return file.read_text(encoding="ascii") if file.exists() else ""

    def note_run(self, run_id: str) -> None:
        """Keep MLflow's id of the run, by which others can send what waits."""
        write_file(self.path / RUN_FILE, run_id.encode())

    def remove_if_empty(self) -> None:
        """Remove the folder where nothing waits."""
        if not self.paths():
            shutil.rmtree(self.path, ignore_errors=True)


def send_waiting(store: TrackingStore, folder: Path, study_id: str, runs: Collection[str]) -> None:
    """Send what runs are yet to get; what a store that is away does not take still waits.

    Args:
        folder: of the study.
        runs: that nobody writes to now: numbers of trials, and ``STUDY``.
    """
    root = folder / WAITING / study_id
    if not root.is_dir():
        return
    try:
        with holding(root, "sent"):
            for name in sorted({path.name for path in root.iterdir()} & set(runs)):
                _send(store, StudyUnsent(folder, study_id, name))
    except StorageError as error:  # another command sends it, or a write is damaged
        logger.warning("%s", error)
    except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
        logger.warning(
            "the MLflow store %s does not answer: %s; what was logged waits in %s, and the same command sends it",
            redact_uri(store.uri),
            redact_uri(first_line(root_cause(error))),
            root,
        )


def _send(store: TrackingStore, unsent: StudyUnsent) -> None:
    """Send what waits for one run, and remove its folder."""
    if unsent.run_id or unsent.creates_run:
        unsent.send(RunEditor(store, unsent.run_id, reopened=True, created=unsent.note_run))
    unsent.remove_if_empty()
