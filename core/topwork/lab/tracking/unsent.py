"""What an MLflow run is yet to get, on disk, in the order in which it is to be written."""

import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from topwork.errors import StorageError, describe, first_line
from topwork.files import write_file
from topwork.lab.run_record import UNSENT, unsent_in
from topwork.lab.tracking.write import RunEditor, Write, is_absence

logger = logging.getLogger(__name__)


class Unsent:
    """A folder of writes that the store did not take yet; it exists only while there are any.

    Args:
        training: the folder of the training that they are of.
        run: that of its run.
    """

    def __init__(self, training: Path, run: Path) -> None:
        self.folder = training / UNSENT
        self.run = run

    def paths(self) -> list[Path]:
        """Return the files of the writes, in order."""
        return unsent_in(self.folder.parent)

    @property
    def remedy(self) -> str:
        """What sends them, for people."""
        return f"send them with: topwork sync {shlex.quote(str(self.run))}"

    @property
    def creates_run(self) -> bool:
        """Whether the first write creates the run."""
        return bool(self.paths()) and _read(self.paths()[0]).create is not None

    def add(self, write: Write) -> None:
        """Put a write at the end; the folder of a model is noted from that of the run.

        Raises:
            StorageError: the disk does not take it.
        """
        if write.model:
            relative = Path(os.path.relpath(write.model.folder.resolve(), self.run.resolve()))
            write = write.model_copy(update={"model": write.model.model_copy(update={"folder": relative})})
        number = max((int(path.stem) for path in self.paths()), default=0) + 1
        write_file(self.folder / f"{number:08}.json", write.model_dump_json().encode())

    def __iter__(self) -> Iterator[Write]:
        """Yield the writes, in order; each is removed when the next is asked for.

        Raises:
            StorageError: one is damaged.
        """
        for path in self.paths():
            write = _read(path)
            if write.model:
                found = Path(os.path.normpath(self.run.resolve() / write.model.folder))
                write = write.model_copy(update={"model": write.model.model_copy(update={"folder": found})})
            yield write
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def send(self, editor: RunEditor) -> int:
        """Write all to the run; return how many the store took. What it refuses is said, and is lost.

        Raises:
            Exception: whatever says that the store is away; this write and those after it still wait.
        """
        sent = 0
        for write in self:
            try:
                with editor.store.defer_signals():
                    editor.apply(write)
                sent += 1
            except Exception as error:  # mlflow raises whatever its store, its server or its disk raises
                if is_absence(error):
                    raise
                logger.warning("%s could not be logged to MLflow: %s", write.what, describe(error))
        return sent


def _read(path: Path) -> Write:
    """Read a write.

    Raises:
        StorageError: it is damaged.
    """
    try:
        return Write.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(f"{path} is damaged: {first_line(error)}; remove it to send the others") from None
