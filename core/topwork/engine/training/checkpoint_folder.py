"""Checkpoints of a training on disk: a folder for each, with ``state.safetensors`` and ``state.json``.

``state.json`` has the sha256 of the other file, and of itself without it; nothing is pickled.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from topwork.engine.training.checkpoint_names import checkpoint_name, checkpoints_in
from topwork.errors import StorageError, UnrecoverableError, first_line, quote
from topwork.files import check_room, new_folder, reach, sha256_of

#: The layout; a newer one is refused.
FORMAT = 1

#: How many checkpoints are kept.
KEPT = 2

TENSORS_FILE, VALUES_FILE = "state.safetensors", "state.json"

#: What stands in ``state.json`` in the place of a tensor, with its name in ``state.safetensors``.
TENSOR = "__tensor__"

logger = logging.getLogger(__name__)


class CheckpointFolder:
    """The checkpoints of one training.

    Args:
        path: of the folder that they are in; it is made with the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def paths(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        return checkpoints_in(self.path)

    def save(self, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove those that are older than the one before it.

        Args:
            epoch, step: the epoch that is being trained, and how many of its steps are done.
            state: numbers, texts, tensors and None, in dicts and lists.

        Raises:
            StorageError: it cannot be written; those that were there are untouched.
        """
        folder = self.path / checkpoint_name(epoch, step)
        if folder.exists():
            return
        tensors: dict[str, Tensor] = {}
        values = _take_out_tensors(state, "", tensors, set())
        size = size_of(tensors)
        check_room(folder, size)
        try:
            with new_folder(folder) as temporary:
                _write(temporary, values, tensors)
        except (StorageError, SafetensorError) as error:  # the latter wraps what the disk says
            said = error if isinstance(error, StorageError) else f"{folder} could not be written: {error}"
            raise StorageError(f"{said}; it needs {size / 1e6:,.1f} MB there") from error
        for old in self.paths()[KEPT:]:
            _remove(old)

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that can be read; None where there is no checkpoint.

        What cannot be read is put aside under another name, with a warning.

        Raises:
            UnrecoverableError: there are checkpoints, and none can be read; nothing is changed.
            StorageError: the newest was written by a newer topwork.
        """
        paths, unreadable = self.paths(), dict[Path, str]()
        for path in paths:
            try:
                state = read_checkpoint(path)
            except DamagedError as error:
                unreadable[path] = str(error)
                continue
            for damaged, why in unreadable.items():
                logger.warning("%s; going on from the checkpoint before it, %s", why, path.name)
                _put_aside(damaged)
            return state
        if unreadable:
            raise UnrecoverableError(
                "\n".join(unreadable.values())
                + f"\nno checkpoint of this training can be read, and nothing was deleted; to train anew, remove "
                f"{self.path.parent}"
            )
        return None

    def remove(self) -> None:
        """Remove all checkpoints."""
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


def _write(folder: Path, values: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write the two files of a checkpoint."""
    safetensors.torch.save_file(dict(tensors), str(folder / TENSORS_FILE))
    digest = sha256_of(folder / TENSORS_FILE)
    written = {"format": FORMAT, "topwork": version("topwork"), "tensors_sha256": digest, "state": values}
    written["sha256"] = _sha256_of_values(written)
    (folder / VALUES_FILE).write_text(json.dumps(written) + "\n", encoding="utf-8")


class DamagedError(StorageError):
    """A checkpoint cannot be read."""


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        DamagedError: it is not whole, or not what was written.
        StorageError: it was written by a newer topwork.
    """
    try:
        written = _read_values(folder / VALUES_FILE)
        if written["format"] <= FORMAT:
            content = (folder / TENSORS_FILE).read_bytes()
            if hashlib.sha256(content).hexdigest() != written["tensors_sha256"]:
                raise ValueError(f"the sha256 of {TENSORS_FILE} is not the one in {VALUES_FILE}")
            state: dict[str, Any] = _put_in_tensors(written["state"], safetensors.torch.load(content))
            return state
    except (OSError, ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"checkpoint {folder} is damaged: {first_line(error)}") from None
    raise StorageError(
        f"checkpoint {folder} has format {written['format']}, this topwork ({version('topwork')}) reads format "
        f"{FORMAT}; use topwork {written.get('topwork', '?')!s:.40}, which wrote it"
    )


def _read_values(path: Path) -> dict[str, Any]:
    """Read what a checkpoint has beside its tensors.

    Raises:
        OSError, ValueError: it cannot be read, or is not what was written.
    """
    written = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(written, dict) or type(written.get("format")) is not int:
        raise ValueError(f"{VALUES_FILE} has no format")
    if written.get("sha256") != _sha256_of_values(written):
        raise ValueError(f"the sha256 of {VALUES_FILE} is not the one that it names")
    return written


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes tensors need on disk, and what stands beside them."""
    return sum(tensor.nbytes for tensor in tensors.values()) + 100_000


def _take_out_tensors(value: Any, name: str, tensors: dict[str, Tensor], places: set[int]) -> Any:
    """Return a value with names in the places of tensors, and add these to ``tensors``.

    Args:
        places: in memory, of those that were added: safetensors writes none of which a part is written already.

    Raises:
        StorageError: something is neither a tensor nor a value that JSON has.
    """
    if isinstance(value, Tensor):
        numbered = f"{len(tensors)} {name}"
        place = value.untyped_storage().data_ptr()
        tensors[numbered] = value.detach().clone() if place in places else value.detach().cpu().contiguous()
        places.add(place)
        return {TENSOR: numbered}
    if isinstance(value, Mapping):
        return {
            key: _take_out_tensors(one, f"{name}/{key}" if name else key, tensors, places) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_take_out_tensors(one, f"{name}/{number}", tensors, places) for number, one in enumerate(value)]
    if not (value is None or isinstance(value, bool | int | float | str)):
        raise StorageError(f"{name} is {quote(value)}, which cannot be written to a checkpoint")
    return value


def _put_in_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _put_in_tensors(one, tensors) for key, one in value.items()}
    return [_put_in_tensors(one, tensors) for one in value] if isinstance(value, list) else value


def _sha256_of_values(written: Mapping[str, Any]) -> str:
    values = {name: value for name, value in written.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _put_aside(folder: Path) -> None:
    """Give a damaged checkpoint another name, so that there can be one of its own; where that cannot be, it stays."""
    with suppress(OSError):
        folder.rename(tempfile.mkdtemp(prefix=f"{folder.name}.unreadable-", dir=folder.parent))


def _remove(folder: Path) -> None:
    """Remove a checkpoint, so that what is left of it when this process ends is none."""
    with suppress(OSError):
        gone = folder.with_name(f".{folder.name}.removed")
        folder.rename(gone)
        reach("removed from view", folder)
        shutil.rmtree(gone, ignore_errors=True)
