"""Read an experiment file. Every error is reported at once as ``file:line:column: path: message``."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from topwork.errors import ConfigurationError, did_you_mean, text_of
from topwork.experiment.origin import Origin
from topwork.experiment.schema import CATALOGS, FILE_FIELDS, Experiment, Source, Task
from topwork.experiment.yaml_text import KeyPath, NotYamlError, read_yaml
from topwork.registry import Registry, discover

logger = logging.getLogger(__name__)


def load_experiment(path: str | Path, overrides: Sequence[str] = (), *, registry: Registry | None = None) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the YAML file.
        overrides: settings such as ``training.epochs=5``, each value read as YAML.
        registry: what is installed; found by ``discover()`` where it is not given.

    Raises:
        ConfigurationError: names every error with its line and column, and the nearest valid key.
    """
    path = Path(path)
    registry = registry if registry is not None else discover()
    for problem in registry.problems:
        logger.warning(problem)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: an experiment file must be readable UTF-8 text: {error}") from error
    try:
        read = read_yaml(text)
    except NotYamlError as error:
        line, column = error.place
        raise ConfigurationError(f"{path}:{line}:{column}: {error}") from None
    if not isinstance(read.value, dict):
        raise ConfigurationError(f"{path}: an experiment is a mapping of sections; start with `name: my-experiment`")
    raw: dict[str, Any] = read.value
    set_at = {_set(raw, override): override for override in overrides}
    origin = Origin(path, text, read.places, set_at)
    try:
        experiment = Experiment.model_validate(raw, context={"registry": registry})
    except ValidationError as error:
        raise ConfigurationError("\n".join(error_messages(error, raw, origin, registry))) from None
    resolved = experiment.model_copy(update={"data": _resolve_files(experiment, origin)})
    resolved._origin = origin
    return resolved


def _set(raw: dict[str, Any], override: str) -> KeyPath:
    """Apply one ``a.b=value`` to ``raw`` and return its path."""
    dotted, equals, value = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigurationError(f"--set {override}: write it as path=value, such as training.epochs=5")
    try:
        parsed = read_yaml(value).value
    except NotYamlError as error:
        reason = str(error).removeprefix("not valid YAML: ")
        raise ConfigurationError(f"--set {override}: the value is not valid YAML: {reason}") from None
    node: Any = raw
    path: list[str | int] = []
    *parents, last = _keys(raw, dotted.split("."))
    for segment in parents:
        path.append(_index(node, segment, override) if isinstance(node, list) else segment)
        if isinstance(node, dict) and node.get(segment) is None:
            node[segment] = {}  # a section that the file leaves out or empty
        node = node[path[-1]]
        if not isinstance(node, dict | list):
            raise ConfigurationError(f"--set {override}: {'.'.join(map(str, path))} is {node!r}, not a section")
    path.append(_index(node, last, override) if isinstance(node, list) else last)
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


def _index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise ConfigurationError(f"--set {override}: {key!r} must be a position in a list of {len(items)}, from 0")
    return int(key)


def _resolve_files(experiment: Experiment, origin: Origin) -> dict[str, Source]:
    """Make file names absolute: from the experiment file's folder, or from here where they came with ``--set``."""
    assert origin.file is not None
    resolved = {}
    for name, source in experiment.data.items():
        absolute = {}
        for field in FILE_FIELDS:
            if (file := getattr(source, field)) is None:
                continue
            base = Path() if origin.is_overridden("data", name, field) else origin.file.parent
            try:
                absolute[field] = (base / file.expanduser()).resolve()
            except (RuntimeError, ValueError) as error:
                where = origin.locate("data", name, field)
                raise ConfigurationError(f"{where}: {str(file)!r} is not a path: {error}") from None
        resolved[name] = source.model_copy(update=absolute)
    return resolved


def error_messages(error: ValidationError, raw: object, origin: Origin, registry: Registry) -> Iterator[str]:
    """Say where each error is, with the nearest valid key for one that is unknown."""
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
    return f"{message[0].lower()}{message[1:]}, got {detail['input']!r}"


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
