"""The one reader of YAML: plain values only, each key once, and no text that YAML 1.1 takes for something else.

Numbers, ``true``, ``false`` and ``null`` mean what they say. YAML 1.1 also reads ``yes`` as true, ``010`` as eight,
``1:30`` as ninety and ``2020-01-01`` as a date. Here all of these stay text, and the settings judge the text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_VALUES = 100_000  # an alias of an alias of an alias can stand for billions
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
RESOLVERS = (  # kind, its texts, the characters that these can begin with
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(?:inf|Inf|INF)", "-+."),
    ("float", r"\.(?:nan|NaN|NAN)", "."),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, which executes nothing, without its surprises."""


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in PLAIN
}
for _kind, _texts, _first in RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_texts})\Z"), list(_first))


def read_yaml(text: str) -> Any:
    """Return the values of a YAML text.

    Raises:
        ValueError: the text is no YAML, or a key stands twice in a mapping. The message is one line, with the line of
            the text.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Return the number of values that a node stands for. Refuse double keys, endless aliases and too many values.

    Args:
        node: a node of the parsed text; an alias is the same node again.
        sizes: the numbers by node; None while a node is being counted.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise ValueError(f"an alias in the value of line {node.start_mark.line + 1} stands for that value itself")
        return size
    sizes[id(node)] = None
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_check(item, sizes) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        _refuse_double_keys(node)
        size += sum(_check(key, sizes) + _check(value, sizes) for key, value in node.value)
    if size > MAX_VALUES:
        raise ValueError(f"it stands for more than {MAX_VALUES} values")
    sizes[id(node)] = size
    return size


def _refuse_double_keys(node: yaml.MappingNode) -> None:
    """Raise if two keys of a mapping are equal; a key that overrules one of a merge (``<<``) is not double."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):  # others cannot be keys: the loader says so
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(f"key {key.value!r} stands twice, in line {lines[key.value]} and in line {line}")
            lines[key.value] = line
