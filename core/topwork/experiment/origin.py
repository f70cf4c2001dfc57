"""Where each value of an experiment was written, so that a message can point at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Path_ = tuple[str | int, ...]


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
    positions: Mapping[Path_, tuple[int, int]] = field(default_factory=dict)
    overrides: Mapping[Path_, str] = field(default_factory=dict)

    def locate(self, *path: str | int) -> str:
        """Return ``file:line:column: dotted.path`` for a path, at the nearest ancestor that is written down."""
        dotted = ".".join(map(str, path))
        for overridden, written in self.overrides.items():
            shared = min(len(path), len(overridden))
            if shared and path[:shared] == overridden[:shared]:
                return f"--set {written}: {dotted}"
        if self.file is None:
            return dotted or "experiment"
        for length in range(len(path), -1, -1):
            if path[:length] in self.positions:
                line, column = self.positions[path[:length]]
                return ": ".join(filter(None, [f"{self.file}:{line}:{column}", dotted]))
        return ": ".join(filter(None, [str(self.file), dotted]))
