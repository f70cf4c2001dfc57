"""What the docstring of a class of settings says of each, for editors and for ``topwork explain``."""

import inspect
import re
from types import ModuleType

#: A line that begins what is said of one attribute, or of several with one meaning.
_ATTRIBUTE = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def summary_of(described: type | ModuleType) -> str:
    """Return the first paragraph of the docstring of a class or module, as one line; empty where it has none."""
    return _own_docstring(described).partition("\n\n")[0].replace("\n", " ").strip()


def attributes_of(described: type) -> dict[str, str]:
    """Return what a class's docstring, and those of its bases, say of each attribute, as one line each."""
    found: dict[str, str] = {}
    for base in reversed(described.__mro__):
        names: list[str] = []
        for line in _own_docstring(base).partition("\nAttributes:\n")[2].splitlines():
            if begun := _ATTRIBUTE.fullmatch(line):
                names = begun[1].split(", ")
                found |= dict.fromkeys(names, begun[2])
            elif line.startswith("        ") and names:
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            elif line.strip():
                break  # another section
    return found


def _own_docstring(described: type | ModuleType) -> str:
    return inspect.cleandoc(described.__dict__.get("__doc__") or "")
