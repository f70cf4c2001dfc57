"""Where each value of an experiment was written, so that a message can point at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topwork.errors import shorten
from topwork.experiment.yaml_text import KeyPath, Place


@dataclass(frozen=True)
class Origin:
    """The experiment file and what was set over it.

    Attributes:
        file: as the researcher named it; None for an experiment made in Python.
        text: the file's content.
        positions: line and column, from 1, of each key and list item.
        overrides: values given with ``--set``, by path.
    """

    file: Path | None = None
    text: str = ""
    positions: Mapping[KeyPath, Place] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)

    def is_overridden(self, *path: str | int) -> bool:
        """Whether the value at ``path`` was given with ``--set``, by itself or with a section around it."""
        return any(path[: len(overridden)] == overridden for overridden in self.overrides)

    def locate(self, *path: str | int) -> str:
        """Return ``file:line:column: dotted.path`` for a path, at the nearest ancestor that is written down.

        For what ``--set`` gave, return that instead of the place.
        """
        dotted = ".".join(shorten(str(part)) for part in path)
        inside = {key: written for key, written in self.overrides.items() if path and key[: len(path)] == path}
        around = {key: written for key, written in self.overrides.items() if path[: len(key)] == key}
        if around or (inside and path not in self.positions):
            return f"--set {shorten(next(iter((around or inside).values())), 200)}: {dotted}"
        if self.file is None:
            return dotted or "experiment"
        line, column = next(
            self.positions[path[:length]] for length in range(len(path), -1, -1) if path[:length] in self.positions
        )
        note = f" with --set {shorten(' '.join(inside.values()), 200)}" if inside else ""
        return f"{self.file}:{line}:{column}{note}{': ' if dotted else ''}{dotted}"
