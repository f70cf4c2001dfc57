"""Read an experiment file. Every error is reported at once as ``file:line:column: path: message``."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from topwork.errors import ConfigurationError, did_you_mean, quote, reason_of, shorten, text_of
from topwork.experiment.origin import Origin
from topwork.experiment.plugin_entry import CATALOGS
from topwork.experiment.schema import Experiment, Task
from topwork.experiment.source import FILE_FIELDS, Source
from topwork.experiment.yaml_text import MAX_CHARACTERS, MAX_DEPTH, KeyPath, NotYamlError, read_yaml
from topwork.plugin_file import PluginFile, read_plugin_file
from topwork.registry import Registry, discover, with_files

logger = logging.getLogger(__name__)

#: How many errors a message names; it always gives the total.
SHOWN = 20


def load_experiment(path: str | Path, overrides: Sequence[str] = (), *, registry: Registry | None = None) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the YAML file.
        overrides: settings such as ``training.epochs=5``, each value read as YAML.
        registry: what is installed; found by ``discover()`` where it is not given.

    Raises:
        ConfigurationError: names every error with its line and column, and the nearest valid key.
    """
    raw, origin = _read(Path(path), overrides)
    files = _read_plugin_files(raw, origin)
    registry = discover(files) if registry is None else with_files(registry, files)
    try:
        experiment = Experiment.model_validate(raw, context={"registry": registry})
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join([*error_messages(error, raw, origin, registry), *registry.problems])
        ) from None
    for problem in registry.problems:
        logger.warning(problem)
    resolved = experiment.model_copy(update={"data": _resolve_files(experiment, origin)})
    resolved._origin = origin
    return resolved


def load_plugin_files(path: Path) -> list[PluginFile]:
    """Read the plugin files that an experiment file names, whatever else is in it.

    Raises:
        ConfigurationError: it or one of them cannot be read.
    """
    return _read_plugin_files(*_read(path, ()))


def _read(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], Origin]:
    """Read an experiment file as it stands, and where everything in it stands.

    Raises:
        ConfigurationError: it cannot be read, is no mapping, or an override does not fit it.
    """
    text = _read_text(path)
    try:
        read = read_yaml(text)
    except NotYamlError as error:
        line, column = error.place
        raise ConfigurationError(f"{path}:{line}:{column}: {error}") from None
    if not isinstance(read.value, dict):
        raise ConfigurationError(f"{path}: an experiment is a mapping of sections; start with `name: my-experiment`")
    raw: dict[str, Any] = read.value
    set_at = {_set(raw, override): override for override in overrides}
    return raw, Origin(path, text, read.places, set_at)


def _read_plugin_files(raw: dict[str, Any], origin: Origin) -> list[PluginFile]:
    """Read the files under ``plugins``, and put them in the place of their paths; what is no path stays as it is.

    Raises:
        ConfigurationError: some cannot be read, or are not what they were; names all such.
    """
    entries = raw["plugins"] if isinstance(raw.get("plugins"), list) else []
    files: list[PluginFile] = []
    errors: list[str] = []
    for number, entry in enumerate(entries):
        path, sha256 = (entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(path, str) or (isinstance(entry, dict) and entry.keys() - {"path", "sha256"}):
            continue
        where = origin.locate("plugins", number)
        try:
            file = read_plugin_file(_absolute(Path(path), origin, "plugins", number, follow=False))
            if sha256 not in (None, file.sha256):
                raise ConfigurationError(
                    f"{file.path} has changed: its sha256 is {file.sha256}, not {quote(sha256, 80)}"
                )
        except ConfigurationError as error:
            errors += [f"{where}: {line}" for line in text_of(error).splitlines()]
        else:
            entries[number] = file
            files.append(file)
    if errors:
        raise ConfigurationError("\n".join(errors))
    return files


def _absolute(file: Path, origin: Origin, *place: str | int, follow: bool = True) -> Path:
    """Return a file from the experiment file's folder, or from here where its name came with ``--set``.

    Args:
        follow: whether links are followed.

    Raises:
        ConfigurationError: it is not a path.
    """
    assert origin.file is not None
    base = Path() if origin.is_overridden(*place) else origin.file.parent
    try:
        path = base / file.expanduser()
        return path.resolve() if follow else Path(os.path.abspath(path))  # noqa: PTH100  (pathlib keeps `..`)
    except (RuntimeError, ValueError) as error:
        raise ConfigurationError(f"{quote(str(file))} is not a path: {error}") from None


def _read_text(path: Path) -> str:
    """Read an experiment file; of one that is too long only as much as shows that it is.

    Raises:
        ConfigurationError: it cannot be read, or is not UTF-8.
    """
    rule = "an experiment file must be readable UTF-8 text"
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 1)  # a character has 4 bytes at most
    except OSError as error:
        raise ConfigurationError(f"{path}: {rule}: {reason_of(error)}") from error
    except ValueError as error:
        raise ConfigurationError(f"{quote(str(path))} is not a path: {text_of(error)}") from error
    if len(content) > 4 * MAX_CHARACTERS:
        raise ConfigurationError(f"{path}: an experiment file may have at most {MAX_CHARACTERS:,} characters")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise ConfigurationError(f"{path}:{place}: {rule}, but byte 0x{content[error.start]:02x} is not") from error


def _set(raw: dict[str, Any], override: str) -> KeyPath:
    """Apply one ``a.b=value`` to ``raw`` and return its path."""
    dotted, equals, value = override.partition("=")
    segments, where = dotted.split("."), f"--set {shorten(override, 200)}"
    if not equals or not all(segments):
        raise ConfigurationError(f"{where}: write it as path=value, such as training.epochs=5")
    if len(segments) > MAX_DEPTH:
        raise ConfigurationError(f"{where}: a path has at most {MAX_DEPTH} parts, got {len(segments):,}")
    try:
        parsed = read_yaml(value).value
    except NotYamlError as error:
        reason = str(error).removeprefix("not valid YAML: ")
        raise ConfigurationError(f"{where}: the value is not valid YAML: {reason}") from None
    node: Any = raw
    path: list[str | int] = []
    *parents, last = _keys(raw, segments)
    for segment in parents:
        path.append(_index(node, segment, where) if isinstance(node, list) else segment)
        if isinstance(node, dict) and node.get(segment) is None:
            node[segment] = {}  # a section that the file leaves out or empty
        node = node[path[-1]]
        if not isinstance(node, dict | list):
            raise ConfigurationError(f"{where}: {shorten('.'.join(map(str, path)))} is {quote(node)}, not a section")
    path.append(_index(node, last, where) if isinstance(node, list) else last)
    node[path[-1]] = parsed
    return tuple(path)


def _keys(node: Any, segments: list[str]) -> list[str]:
    """Join segments that are one key where they stand, such as ``optimizer.heads_lr`` below study.search."""
    keys: list[str] = []
    while segments:
        lengths = range(len(segments), 0, -1)
        length = next((n for n in lengths if isinstance(node, dict) and ".".join(segments[:n]) in node), 1)
        keys.append(".".join(segments[:length]))
        node = node.get(keys[-1]) if isinstance(node, dict) else None
        segments = segments[length:]
    return keys


def _index(items: list[Any], key: str, where: str) -> int:
    if not (key.isdecimal() and len(key) <= 9 and int(key) < len(items)):
        raise ConfigurationError(f"{where}: {quote(key)} must be a position in a list of {len(items)}, from 0")
    return int(key)


def _resolve_files(experiment: Experiment, origin: Origin) -> dict[str, Source]:
    """Make file names absolute: from the experiment file's folder, or from here where they came with ``--set``."""
    resolved = {}
    for name, source in experiment.data.items():
        absolute = {}
        for field in FILE_FIELDS:
            if (file := getattr(source, field)) is None:
                continue
            try:
                absolute[field] = _absolute(file, origin, "data", name, field)
            except ConfigurationError as error:
                raise error.located(origin.locate("data", name, field)) from None
        resolved[name] = source.model_copy(update=absolute)
    return resolved


def error_messages(error: ValidationError, raw: object, origin: Origin, registry: Registry) -> Iterator[str]:
    """Say where the first 20 errors are, with the nearest valid key for one that is unknown, and how many there are."""
    yield from islice(_error_messages(error, raw, origin, registry), SHOWN)
    if (count := error.error_count()) > SHOWN:
        yield f"... and {count - SHOWN:,} more; {count:,} errors in all"


def _error_messages(error: ValidationError, raw: object, origin: Origin, registry: Registry) -> Iterator[str]:
    for detail in error.errors():
        path = tuple(part for part in detail["loc"] if part != "[key]")
        unknown = detail["type"] == "extra_forbidden"
        hint = did_you_mean(str(path[-1]), _known_keys(path[:-1], raw, registry)) if unknown else ""
        yield from (f"{origin.locate(*path)}: {line}{hint}" for line in describe_error(detail).splitlines())


def describe_error(detail: ErrorDetails) -> str:
    """Word one of pydantic's errors as this project words errors, without its place."""
    if detail["type"] == "extra_forbidden":
        return "unknown key"
    if detail["type"] == "missing":
        return "this key is required"
    if detail["type"] == "value_error":
        return text_of(detail["ctx"]["error"])
    message = detail["msg"] or detail["type"]
    return f"{message[0].lower()}{message[1:]}, got {quote(detail['input'])}"


def _known_keys(path: KeyPath, raw: object, registry: Registry) -> set[str]:
    """The keys that are valid in the section at ``path``."""
    fields: Mapping[str, Any] = Experiment.model_fields
    for depth, key in enumerate(path):
        raw = raw.get(key, {}) if isinstance(raw, dict) else {}
        if key in CATALOGS and (depth == 0 or (depth == 2 and key == "head")):
            kind = raw.get("kind") if isinstance(raw, dict) else None
            plugin = registry.catalogs()[CATALOGS[str(key)]].plugins.get(str(kind))
            return set(plugin.config.model_fields) if plugin else set()
        if depth == 1 and path[0] in ("data", "tasks"):
            fields = (Source if path[0] == "data" else Task).model_fields
        elif key in fields:
            annotation = fields[str(key)].annotation
            sections = [annotation, *getattr(annotation, "__args__", ())]
            fields = next((s.model_fields for s in sections if isinstance(s, type) and issubclass(s, BaseModel)), {})
    return set(fields)
