"""Read YAML 1.2 with the place of every key, refusing what YAML readers pass over in silence."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from topwork.errors import quote, shorten

#: Line and column, from 1.
Place = tuple[int, int]
KeyPath = tuple[str | int, ...]

#: Far more than an experiment needs, and little enough to be read in seconds: characters of a text, sections and lists
#: inside each other, and values once every alias is written out.
MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES = 300_000, 50, 50_000

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_SCALARS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


class NotYamlError(Exception):
    """The text is not YAML, or not plain YAML; carries where and why."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True)
class YamlText:
    """Plain values, and the place of every key and list item by path."""

    value: object
    places: dict[KeyPath, Place]


def read_yaml(text: str) -> YamlText:
    """Read ``text``: mappings, lists, text, whole numbers of 64 bits, other numbers and truth values, nothing else.

    What an alias repeats is a copy. A key is the word that stands there.

    Raises:
        NotYamlError: a key or an anchor occurs twice, a tag or directive is used, the text is too long or too deep, or
            it is not YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotYamlError((1, 1), f"it has {len(text):,} characters, and may have at most {MAX_CHARACTERS:,}")
    reader = YAML(typ="safe", pure=True)  # the C reader speaks YAML 1.1, where 1e-3 is text
    reader.Constructor, reader.Composer = _Constructor, _Composer
    try:
        tree = reader.compose(StringIO(text))
        builder = _Builder(reader.constructor)
        value = builder.build(tree, ()) if tree is not None else None
        return YamlText(value, {(): (1, 1)} | builder.places)
    except ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise NotYamlError(place, f"not valid YAML: {error.reason}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYamlError((mark.line + 1, mark.column + 1), f"not valid YAML: {error.problem}") from None
    except YAMLError as error:
        raise NotYamlError((1, 1), f"not valid YAML: {error}") from None


class _Constructor(SafeConstructor):
    """Leaves a date the text that it is in YAML 1.2."""


_Constructor.add_constructor(f"{_TAG}timestamp", SafeConstructor.construct_yaml_str)


class _Composer(Composer):
    """Refuses what is too deep to be read, names that are given twice, and directives."""

    def compose_document(self) -> Any:
        start = self.parser.peek_event()
        if start.version or start.tags:
            raise NotYamlError((1, 1), "not valid YAML: a directive is not allowed; remove the line that begins with %")
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        place = event.start_mark.line + 1, event.start_mark.column + 1
        if self.depth >= MAX_DEPTH and not isinstance(event, ScalarEvent | AliasEvent):
            raise _too_deep(place)
        if event.anchor in self.anchors and not isinstance(event, AliasEvent):
            raise NotYamlError(place, f"anchor {shorten(event.anchor)} occurs twice; keep one")
        return super().compose_node(parent, index)


class _Builder:
    """Makes plain values of nodes, and keeps the place of each."""

    def __init__(self, constructor: SafeConstructor) -> None:
        self.constructor = constructor
        self.places: dict[KeyPath, Place] = {}
        self.values = 0

    def build(self, node: Node, at: KeyPath, inside: tuple[Node, ...] = ()) -> Any:
        """Return the value of a node at a path, checking tags, keys and anchors on the way."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise NotYamlError(_place(node), f"it has more than {MAX_VALUES:,} values, aliases written out")
        if any(node is outer for outer in inside):
            raise NotYamlError(_place(node), "not valid YAML: an anchor contains itself")
        _check_tag(node)
        if not isinstance(node, ScalarNode) and len(inside) >= MAX_DEPTH:
            raise _too_deep(_place(node))
        inside = (*inside, node)
        if isinstance(node, SequenceNode):
            return [self._build_at(item, (*at, index), _place(item), inside) for index, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._build_mapping(node, at, inside)
        return self._build_scalar(node)

    def _build_at(self, node: Node, at: KeyPath, place: Place, inside: tuple[Node, ...]) -> Any:
        self.places[at] = place
        return self.build(node, at, inside)

    def _build_mapping(self, node: MappingNode, at: KeyPath, inside: tuple[Node, ...]) -> dict[str, Any]:
        """Build a mapping; of the mappings that it merges, the first that has a key gives its value."""
        first: dict[str, Place] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise NotYamlError(_place(key), "not valid YAML: a key must be a word")
            if str(key.ctag) != _MERGE:
                _check_tag(key)
            if key.value in first:
                line, _ = first[key.value]
                raise NotYamlError(
                    _place(key), f"key {shorten(key.value)} occurs twice, first in line {line}; keep one"
                )
            first[key.value] = _place(key)
        merged: dict[str, Any] = {}
        for source in _merged(node):
            merged = self.build(source, at, inside) | merged
        own = {
            key.value: self._build_at(value, (*at, key.value), _place(key), inside)
            for key, value in node.value
            if str(key.ctag) != _MERGE
        }
        return merged | own

    def _build_scalar(self, node: Node) -> Any:
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, LookupError):  # LookupError: of a tag that does not fit, such as !!bool 3
            tag = str(node.ctag).replace(_TAG, "!!")
            if tag != "!!int" or not node.value.strip("+-").replace("_", "").isdecimal():
                raise NotYamlError(_place(node), f"not valid YAML: {quote(node.value)} is no {tag}") from None
            value = 2**64  # or more: Python reads no number of over 4,300 digits
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise NotYamlError(_place(node), f"a whole number must fit 64 bits, got {shorten(node.value)}")
        return value


def _merged(node: MappingNode) -> Iterator[MappingNode]:
    """The mappings that a mapping takes in with ``<<``."""
    for key, value in node.value:
        if str(key.ctag) == _MERGE:
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                if not isinstance(source, MappingNode):
                    raise NotYamlError(_place(source), "not valid YAML: << takes a mapping, or a list of some")
                yield source


def _check_tag(node: Node) -> None:
    tag = str(node.ctag)
    if isinstance(node, ScalarNode):
        allowed = tag in _SCALARS
    else:
        allowed = tag == (f"{_TAG}seq" if isinstance(node, SequenceNode) else f"{_TAG}map")
    if tag and not allowed:
        tag = shorten(tag.replace(_TAG, "!!"))
        raise NotYamlError(_place(node), f"not valid YAML: the tag {tag} is not allowed; write plain values")


def _too_deep(place: Place) -> NotYamlError:
    return NotYamlError(place, f"sections and lists stand inside each other more than {MAX_DEPTH} deep")


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def write_inline(value: object) -> str:
    """Write a value of JSON as YAML in one line."""
    writer, buffer = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style, writer.width = True, 2**30
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares it as None
    writer.dump(value, buffer)
    return buffer.getvalue().removesuffix("\n...\n").removesuffix("\n")
