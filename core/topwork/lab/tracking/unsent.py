"""What an MLflow run is yet to get, on disk, in the order in which it is to be written."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from topwork.errors import StorageError, first_line
from topwork.files import write_file
from topwork.lab.run_record import UNSENT, unsent_in
from topwork.lab.tracking.write import Write


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

    def add(self, write: Write) -> None:
        """Put a write at the end.

        Raises:
            StorageError: the disk does not take it.
        """
        number = max((int(path.stem) for path in self.paths()), default=0) + 1
        write_file(self.folder / f"{number:08}.json", write.model_dump_json().encode())

    def __iter__(self) -> Iterator[Write]:
        """Yield the writes, in order; each is removed when the next is asked for.

        Raises:
            StorageError: one is damaged.
        """
        for path in self.paths():
            try:
                yield Write.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise StorageError(f"{path} is damaged: {first_line(error)}; remove it to send the others") from None
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
