"""Docstrings as Markdown: roles become links, doctests become code, and the comment beside a field is its text."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`([^`]+)`")
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.M)
OURS = ("balancer.", "classifier.")


class MarkdownDocstrings(griffe.Extension):
    """Make Markdown of the docstrings of a package, once the package is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Mend the docstring of one object."""
        if isinstance(obj, griffe.Attribute) and isinstance(obj.parent, griffe.Module) and obj.docstring is None:
            obj.docstring = griffe.Docstring(words, parent=obj) if (words := comment(obj)) else None
        if obj.docstring is not None:
            text = obj.docstring.value
            if isinstance(obj, griffe.Class) and "Attributes:" not in text and (lines := list(fields(obj))):
                text += "\n\nAttributes:\n" + "\n".join(lines)
            text = ROLE.sub(lambda role: link(obj, role[1]), text)
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", text)


def fields(obj: griffe.Class) -> Iterator[str]:
    """Yield a line for each public field with a comment beside it, as in a section of a docstring."""
    for name, field in obj.attributes.items():
        if not (name.startswith("_") or field.has_docstring) and (words := comment(field)):
            yield f"    {name}: {words}"


def comment(field: griffe.Object) -> str:
    """Return the comment on the line of a field, without what is said to tools."""
    if field.lineno is None or field.lineno != field.endlineno:
        return ""
    lines = io.StringIO(field.source)
    words = [token.string for token in tokenize.generate_tokens(lines.readline) if token.type == tokenize.COMMENT]
    text = re.sub(r"# (?:type: ignore|noqa)\S*", "", " ".join(words)).strip("# ").strip()
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def link(obj: griffe.Object, target: str) -> str:
    """Return a link to what a role names, or its name as code where the site does not show it."""
    name = target.lstrip("~.")
    label = name.rpartition(".")[2] if target.startswith("~") else name
    try:
        path = name if name.startswith(OURS) else obj.resolve(name)
        return f"[`{label}`][{path}]" if is_shown(obj.modules_collection[path]) else f"`{label}`"
    except (griffe.NameResolutionError, KeyError):  # of another project
        return f"`{label}`"


def is_shown(obj: griffe.Object | griffe.Alias) -> bool:
    """Return whether the site has an entry for an object."""
    target = obj.final_target if isinstance(obj, griffe.Alias) else obj
    constant = isinstance(target, griffe.Attribute) and isinstance(target.parent, griffe.Module)
    described = target.has_docstring or (constant and comment(target) != "")
    return described and not any(part.startswith("_") for part in target.path.split("."))
