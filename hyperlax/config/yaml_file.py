"""YAML whose entries know their lines, so that errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from hyperlax.errors import UsageError
from hyperlax.files import read_text

_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_READ = {
    *(_NULL, _BOOL, _INT, _FLOAT),
    *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq", "timestamp", "value")),
}
_MOST_VALUES = 100_000
"""Values in a file. Ten lines of aliases of aliases can stand for ten billion."""
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping. where: `path:line` of its name. value: a mapping is a dict of entries, a list holds plain values.

    Numbers are decimal. Octal and base 60 numbers of YAML 1.1 are text here. So is 1e-3, which YAML 1.1 does not read as a number.
    """

    where: str
    value: Any

    def refusal(self, problem: str) -> UsageError:
        """Return the error for a problem with the entry."""
        return UsageError(f"{self.where}: {problem}")


def read_entries(path: str, rename: Callable[[str], str], of_mappings: Collection[str]) -> dict[str, Entry]:
    """Return the entries of the mapping in a file, in its order.

    rename: returns the one spelling of a name with several. of_mappings: names whose value may be a list of mappings.

    Raises UsageError, naming file and line, if it cannot be read, is not a mapping, or has a name twice.
    """
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}:1: holds no `name: value`. Begin with algo_and_network_config: sac_mlp.")
        if _size(node, {}) > _MOST_VALUES:
            raise UsageError(
                f"{path}: its aliases stand for more than {_MOST_VALUES:,} values. Write out what is needed."
            )
        return _entries(node, path, rename, of_mappings)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: holds a character that cannot be printed. Remove it.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(words for words in (error.context, error.problem) if words)
        raise UsageError(f"{path}:{mark.line + 1 if mark else 1}: is not valid YAML ({said}).") from error
    except RecursionError as error:
        raise UsageError(f"{path}: is nested too deeply, or refers to itself.") from error


def read_value(text: str, where: str, may_nest: bool) -> Any:
    """Return the value that a text spells in YAML: 1e-4, [1, 2], {type: uniform, ...}. Raises UsageError, naming `where`.

    may_nest: whether it may be a list of mappings.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _placed(_value(node, where, may_nest), where)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{where}: the value is not valid YAML.") from error


def _placed(value: Any, where: str) -> Any:
    """Return a value whose entries all have the same place."""
    if not isinstance(value, dict):
        return value
    return {name: Entry(where, _placed(entry.value, where)) for name, entry in value.items()}


def plain_value(value: Any) -> Any:
    """Return the value of an entry without the places of the entries in it."""
    return {name: plain_value(entry.value) for name, entry in value.items()} if isinstance(value, dict) else value


def _text(path: str) -> str:
    try:
        return read_text(Path(path), "utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8. Save it in UTF-8.") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values that a node stands for. known: those of nodes that were counted, which aliases share."""
    if id(node) not in known:
        below = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        is_leaf = isinstance(node, yaml.ScalarNode)
        known[id(node)] = 1 if is_leaf else 1 + sum(_size(one, known) for one in below)
    return known[id(node)]


def _entries(
    node: yaml.MappingNode, path: str, rename: Callable[[str], str] = str, of_mappings: Collection[str] = ()
) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, value in node.value:
        where = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{where}: a name is a text, not a list or a mapping.")
        if key.value == "<<":
            raise UsageError(f"{where}: `<<` is not supported. Write the entries out.")
        name = rename(key.value)
        if name in found:
            raise UsageError(f"{where}: `{name}` is given twice, first in line {found[name].where.rsplit(':', 1)[1]}.")
        found[name] = Entry(where, _value(value, path, name in of_mappings))
    return found


def _value(node: yaml.Node, path: str, may_nest: bool = False) -> Any:
    if node.tag not in _READ or (node.tag == _BOOL and node.value.lower() not in (*_TRUE, *_FALSE)):
        where = f"{path}:{node.start_mark.line + 1}"
        raise UsageError(
            f"{where}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not supported. Write the value alone."
        )
    if isinstance(node, yaml.MappingNode):
        return _entries(node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_item(one, path, may_nest) for one in node.value]
    if node.tag == _NULL:
        return None
    if node.tag == _BOOL:
        return node.value.lower() in _TRUE
    return _number(node.value, node.tag) if node.tag in (_INT, _FLOAT) else node.value


def _item(node: yaml.Node, path: str, may_nest: bool) -> Any:
    if isinstance(node, yaml.MappingNode) and not may_nest:
        where = f"{path}:{node.start_mark.line + 1}"
        raise UsageError(f"{where}: a list holds numbers, texts, true, false or lists, not a mapping.")
    return plain_value(_value(node, path))


def _number(text: str, tag: str) -> int | float | str:
    plain = text.lower().replace("_", "")
    try:
        if _DECIMAL.fullmatch(plain):
            return int(plain)
        return float(re.sub(r"\.(inf|nan)", r"\1", plain)) if tag == _FLOAT else text
    except ValueError:  # base 60, or a whole number of thousands of digits
        return text
