"""Read an experiment file. Every fault is reported at once as ``file:line:column: path: message``."""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from topwork.errors import ConfigurationError, did_you_mean
from topwork.experiment.origin import Origin, Path_
from topwork.experiment.schema import CATALOGS, Experiment, Source, Task
from topwork.registry import Registry, discover

_FILE_FIELDS = ("path", "train", "validation", "test")


def load_experiment(path: str | Path, overrides: Sequence[str] = (), *, registry: Registry | None = None) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: the YAML file.
        overrides: settings such as ``training.epochs=5``, each value read as YAML.
        registry: what is installed; found by ``discover()`` where it is not given.

    Raises:
        ConfigurationError: names every fault with its line and column, and the nearest valid key.
    """
    path = Path(path)
    registry = registry if registry is not None else discover()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigurationError(f"{path}: an experiment file must be readable UTF-8 text: {fault}") from fault
    raw, positions = _read_yaml(text, str(path))
    set_at = {_set(raw, override): override for override in overrides}
    origin = Origin(path, text, positions, set_at)
    try:
        experiment = Experiment.model_validate(raw, context={"registry": registry})
    except ValidationError as fault:
        raise ConfigurationError("\n".join(_messages(fault, raw, origin, registry))) from None
    resolved = experiment.model_copy(update={"data": _resolve_files(experiment, origin)})
    resolved._origin = origin
    return resolved


def _read_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Path_, tuple[int, int]]]:
    """Parse YAML 1.2 into plain values and the position of every key and list item."""
    reader = YAML(typ="rt")
    try:
        document = reader.load(StringIO(text))
    except DuplicateKeyError as fault:
        mark = fault.problem_mark
        key = str(fault.problem).split('"')[1]
        raise ConfigurationError(
            f"{name}:{mark.line + 1}:{mark.column + 1}: key {key} occurs twice; keep one"
        ) from None
    except MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise ConfigurationError(f"{name}:{mark.line + 1}:{mark.column + 1}: not valid YAML: {fault.problem}") from None
    if not isinstance(document, CommentedMap):
        raise ConfigurationError(f"{name}: an experiment is a mapping of sections; start with `name: my-experiment`")
    positions: dict[Path_, tuple[int, int]] = {(): (1, 1)}
    return _plain(document, (), positions), positions


def _plain(node: Any, at: Path_, positions: dict[Path_, tuple[int, int]]) -> Any:
    """Strip ruamel's types from ``node``, noting positions on the way."""
    if isinstance(node, CommentedMap):
        for key in node:
            line, column = node.lc.key(key) if key in node.lc.data else (node.lc.line, node.lc.col)
            positions[(*at, key)] = (line + 1, column + 1)
        return {key: _plain(value, (*at, key), positions) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            line, column = node.lc.item(index)
            positions[(*at, index)] = (line + 1, column + 1)
        return [_plain(value, (*at, index), positions) for index, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node


def _set(raw: dict[str, Any], override: str) -> Path_:
    """Apply one ``a.b=value`` to ``raw`` and return its path."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigurationError(f"--set {override}: write it as path=value, such as training.epochs=5")
    try:
        parsed = YAML(typ="safe").load(value)
    except MarkedYAMLError as fault:
        raise ConfigurationError(f"--set {override}: the value is not valid YAML: {fault.problem}") from None
    *parents, last = dotted.split(".")
    node: Any = raw
    for depth, key in enumerate(parents):
        node = node.setdefault(key, {}) if isinstance(node, dict) else node[_index(node, key, override)]
        if not isinstance(node, dict | list):
            raise ConfigurationError(f"--set {override}: {'.'.join(parents[: depth + 1])} is {node!r}, not a section")
    if isinstance(node, list):
        node[_index(node, last, override)] = parsed
    else:
        node[last] = parsed
    return tuple(_keys(raw, dotted.split(".")))


def _index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise ConfigurationError(f"--set {override}: {key!r} must be a position in a list of {len(items)}, from 0")
    return int(key)


def _keys(raw: Any, segments: Sequence[str]) -> Iterator[str | int]:
    """Turn the segments of a dotted path into keys and list positions."""
    for segment in segments:
        key: str | int = int(segment) if isinstance(raw, list) else segment
        yield key
        raw = raw[key]


def _resolve_files(experiment: Experiment, origin: Origin) -> dict[str, Source]:
    """Make file names absolute: from the experiment file's folder, or from here where they came with ``--set``."""
    assert origin.file is not None
    beside = origin.file.parent
    resolved = {}
    for name, source in experiment.data.items():
        files = {field: file for field in _FILE_FIELDS if (file := getattr(source, field)) is not None}
        bases = {field: Path() if ("data", name, field) in origin.overrides else beside for field in files}
        absolute = {field: (bases[field] / file.expanduser()).resolve() for field, file in files.items()}
        resolved[name] = source.model_copy(update=absolute)
    return resolved


def _messages(fault: ValidationError, raw: object, origin: Origin, registry: Registry) -> Iterator[str]:
    """Word pydantic's errors as this project words errors."""
    for error in fault.errors():
        path = tuple(part for part in error["loc"] if part != "[key]")
        where = origin.locate(*path)
        if error["type"] == "extra_forbidden":
            hint = did_you_mean(str(path[-1]), _known_keys(path[:-1], raw, registry))
            yield f"{where}: unknown key{hint}"
        elif error["type"] == "missing":
            yield f"{where}: this key is required"
        elif error["type"] == "value_error":
            yield from (f"{where}: {line}" for line in str(error["ctx"]["error"]).splitlines())
        else:
            message = error["msg"]
            yield f"{where}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _known_keys(path: Path_, raw: object, registry: Registry) -> set[str]:
    """The keys that are valid in the section at ``path``."""
    fields: Mapping[str, Any] = Experiment.model_fields
    for depth, key in enumerate(path):
        raw = raw.get(key, {}) if isinstance(raw, dict) else {}
        if key in CATALOGS and (depth == 0 or key == "head"):
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
