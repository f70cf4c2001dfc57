"""Read YAML 1.2 with the place of every key, refusing what YAML readers pass over in silence."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

#: Line and column, from 1.
Place = tuple[int, int]
KeyPath = tuple[str | int, ...]


_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp")}


class _Constructor(SafeConstructor):
    """Leaves a date the text that it is in YAML 1.2."""


_Constructor.add_constructor(f"{_TAG}timestamp", SafeConstructor.construct_yaml_str)


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
    """Read ``text``: mappings, lists, text, numbers and truth values, nothing else.

    Raises:
        NotYamlError: a key occurs twice, a tag is used, or the text is not YAML.
    """
    reader = YAML(typ="safe", pure=True)  # the C reader speaks YAML 1.1, where 1e-3 is text
    reader.Constructor = _Constructor
    reader.allow_duplicate_keys = True  # looked for below, where both places are known
    try:
        tree = reader.compose(StringIO(text))
        places = dict(_walk(tree, ())) if tree is not None else {}
        return YamlText(reader.load(StringIO(text)), {(): (1, 1)} | places)
    except ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise NotYamlError(place, f"not valid YAML: {error.reason}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYamlError((mark.line + 1, mark.column + 1), f"not valid YAML: {error.problem}") from None
    except YAMLError as error:
        raise NotYamlError((1, 1), f"not valid YAML: {error}") from None


def _walk(node: Node, at: KeyPath, inside: tuple[Node, ...] = ()) -> Iterator[tuple[KeyPath, Place]]:
    """Yield the place of everything below ``node``, checking tags, keys and anchors on the way."""
    if any(node is outer for outer in inside):
        raise NotYamlError(_place(node), "not valid YAML: an anchor contains itself")
    inside = (*inside, node)
    tag = str(node.ctag)
    if tag and tag not in _PLAIN:
        tag = tag.replace(_TAG, "!!")
        raise NotYamlError(_place(node), f"not valid YAML: the tag {tag} is not allowed; write plain values")
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield (*at, index), _place(item)
            yield from _walk(item, (*at, index), inside)
    if isinstance(node, MappingNode):
        first: dict[str, Place] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise NotYamlError(_place(key), "not valid YAML: a key must be a word")
            if key.value in first:
                line, _ = first[key.value]
                raise NotYamlError(_place(key), f"key {key.value} occurs twice, first in line {line}; keep one")
            first[key.value] = _place(key)
            yield (*at, key.value), _place(key)
            yield from _walk(value, (*at, key.value), inside)


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
