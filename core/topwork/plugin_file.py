"""A plugin that is a single file, named in an experiment: ``plugins: [my_head.py]``."""

import hashlib
import re
import sys
from collections.abc import Sequence, Set
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from topwork.errors import ConfigurationError, PluginError, quote, reason_of, shorten, text_of

#: What the names of modules made of such files begin with; the sha256 of the text follows, so that equal text is one
#: module, whose classes are the same wherever it is read from.
MODULE_PREFIX = "topwork_plugin_file_"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class PluginFile(BaseModel):
    """The text of a Python file that registers plugins, as a module of an installed package would.

    Attributes:
        path: where it was read.
        sha256: of the text.
        text: the file's content.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    sha256: Sha256
    text: str = Field(repr=False)

    @property
    def module(self) -> str:
        """The name of the module that is made of it."""
        return f"{MODULE_PREFIX}{self.sha256}"

    @property
    def version(self) -> str:
        """The beginning of the sha256, which stands where packages have a version."""
        return self.sha256[:12]


def read_plugin_file(path: Path) -> PluginFile:
    """Read a plugin file.

    Raises:
        ConfigurationError: it is not a Python file that can be read.
    """
    if path.suffix != ".py":
        raise ConfigurationError(
            f"a plugin file is a Python file, such as my_head.py, got {quote(path.name)}; what is installed as a "
            "package needs no mention"
        )
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} cannot be read: byte 0x{content[error.start]:02x} is not UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise ConfigurationError(f"{quote(str(path))} is not a path: {text_of(error)}") from error
    return PluginFile(path=path, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def import_plugin_file(file: PluginFile) -> ModuleType:
    """Run a plugin file as a module, once for each text; raises whatever its code raises."""
    if loaded := sys.modules.get(file.module):
        return loaded
    spec = ModuleSpec(file.module, None, origin=str(file.path))
    module = module_from_spec(spec)
    module.__file__ = str(file.path)
    before = set(sys.modules)
    sys.modules[file.module] = module  # pydantic looks for annotations there
    try:
        exec(compile(file.text, str(file.path), "exec"), module.__dict__)  # that its user named
        _check_alone(file, before)
    except BaseException:
        del sys.modules[file.module]
        raise
    return module


def _check_alone(file: PluginFile, before: Set[str]) -> None:
    """Check that a plugin file has imported nothing that lies beside it, of which no text would be kept.

    Raises:
        PluginError: it has.
    """
    new = {
        name: str(getattr(sys.modules[name], "__file__", "")) for name in sys.modules.keys() - before - {file.module}
    }
    beside = sorted(name for name, path in new.items() if path and Path(path).parent == file.path.parent)
    if beside:
        raise PluginError(
            f"it imports {', '.join(beside)} from beside it, and only its own text is kept with runs and models; put "
            "all into one file, or make a package: topwork new head NAME"
        )


def not_trusted(files: Sequence[PluginFile], *, trusted: bool) -> str:
    """Name the files whose code may not run: unless all are trusted, those that have not run in this process yet."""
    new = [] if trusted else [file for file in files if file.module not in sys.modules]
    return ", ".join(f"{shorten(file.path.name)} ({_count(file.text)})" for file in new)


def _count(text: str) -> str:
    lines = len(text.splitlines())
    return "1 line" if lines == 1 else f"{lines} lines"


def name_of_module(module: str) -> str | None:
    """Return the name of the file that a module was made of; None where it is another module."""
    if not re.fullmatch(rf"{MODULE_PREFIX}[0-9a-f]{{64}}", module):
        return None
    return Path(str(getattr(sys.modules.get(module), "__file__", module))).name
