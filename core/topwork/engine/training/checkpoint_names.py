"""Names of checkpoints: the epoch that is being trained and how many steps of it are done, so that they sort by age."""

import re
from pathlib import Path


def checkpoint_name(epoch: int, step: int) -> str:
    """Return the name of a checkpoint."""
    return f"{epoch:06}-{step:09}"


def position_of(checkpoint: Path) -> tuple[int, int]:
    """Return the epoch, from 1, and the steps that a checkpoint is named after."""
    epoch, step = map(int, checkpoint.name.split("-"))
    return epoch, step


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((one for one in folder.iterdir() if re.fullmatch(r"\d{6}-\d{9}", one.name)), reverse=True)
