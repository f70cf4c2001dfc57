"""Edit the manifest of a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def of_sentiment(manifest: dict[str, Any]) -> dict[str, Any]:
    """The record of a task's label space."""
    record: dict[str, Any] = manifest["labels"]["sentiment"]
    return record


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replace model.json by a changed one, without its sha256, as earlier versions wrote it."""
    manifest = json.loads((folder / "model.json").read_text())
    del manifest["sha256"]
    change(manifest)
    replace(folder / "model.json", json.dumps(manifest))


def replace(path: Path, content: str) -> None:
    """Replace a file, of which there may be links, by another."""
    path.unlink()
    path.write_text(content)
