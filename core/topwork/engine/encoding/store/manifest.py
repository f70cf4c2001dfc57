"""Which shards of a folder of the store count: those that its manifest names, and those that are named beside it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from topwork.errors import StorageError, reason_of

#: The manifest, and how the names of files end that name a shard beside it.
MANIFEST, NAMED_BESIDE = "manifest.json", ".shard.json"


class Shard(BaseModel):
    """A shard as the manifest names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # also the file's name, so no path gets in
    bytes: int
    texts: int

    @property
    def file(self) -> str:
        """The shard's file name."""
        return f"{self.sha256}.safetensors"


class Manifest(BaseModel):
    """What a folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    key: dict[str, object]
    shards: tuple[Shard, ...] = ()


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder of the store; None where there is none.

    Raises:
        ValueError: it is damaged.
        StorageError: it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {reason_of(error)}") from None


def shards_beside(folder: Path, known: dict[Path, Shard]) -> list[Shard]:
    """Return the shards of a folder that are named beside its manifest.

    Args:
        known: what was read before, to which is added what is read now: it never changes.

    Raises:
        StorageError: the folder cannot be read.
    """
    found = []
    for path in sorted(folder.glob(f"*{NAMED_BESIDE}")):
        try:
            if path not in known:
                known[path] = Shard.model_validate_json(path.read_bytes())
            found.append(known[path])
        except (FileNotFoundError, ValueError):
            continue  # it is in the manifest now, or was damaged, and its texts are encoded again
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {reason_of(error)}") from None
    return found
