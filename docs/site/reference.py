"""The reference pages: options, settings and the Python API, from the code that they describe."""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import click

import balancer
import classifier
from balancer.core.explain_settings import all_settings
from balancer.core.program import Command
from balancer.core.settings import SECTIONS

PROGRAMS = (balancer, classifier)
PACKAGES = [
    name
    for program in PROGRAMS
    for name in (
        program.__name__,
        *sorted(f"{program.__name__}.{item.name}" for item in pkgutil.iter_modules(program.__path__) if item.ispkg),
    )
]


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name."""
    return {
        "options": options_page(),
        "settings": settings_page(),
        "public": public_page(),
        **{name: package_page(name) for name in PACKAGES},
    }


def settings_page() -> str:
    """Return the settings of all sections, as `balancer settings` explains them."""
    lines = [
        "# Every setting",
        "The sections are those of a config file. On the command line, `--set NAME=VALUE` sets a setting, and"
        " `balancer settings NAME` explains it.",
    ]
    section = ""
    for facts in all_settings():
        if facts.section != section:
            section = facts.section
            lines += [f"## `{section}` {{ #{section} }}", f"Commands: {facts.commands}."]
        name = facts.name if facts.name.startswith(f"{section}.") else f"{section}.{facts.name}"
        lines += [f"### `{facts.name}` {{ #{name} .entry }}", f"{_text(facts.meaning)}."]
        lines.append(f"*Values:* {_text(facts.values)}. *Default:* {_text(facts.default)}.\n{{ .facts }}")
    return "\n\n".join(lines) + "\n"


def options_page() -> str:
    """Return the help of every command."""
    lines = ["# Every option", "This page has what `--help` says of each command."]
    for program in PROGRAMS:
        main: click.Group = import_module(f"{program.__name__}.cli").main
        lines += [f"## {program.__name__}"]
        for name, command in _commands(main, program.__name__):
            lines += _command(name, command)
    return "\n\n".join(lines) + "\n"


def public_page() -> str:
    """Return the names that `import balancer, classifier` gives: functions first, then settings and errors."""
    lines = ["# Public functions", "The guide to these names is [Python API](api.md)."]
    sections = {model.__name__: section for section, model in SECTIONS.items()}
    for program in PROGRAMS:
        lines.append(f"## {program.__name__}")
        for name in sorted(program.__all__, key=lambda name: (name[0].isupper(), name)):
            lines.append(f"::: {program.__name__}.{name}\n    options:\n      heading_level: 3")
            if section := sections.get(name):
                lines.append(f"The fields are the settings of [`{section}`](settings.md#{section}).")
    return "\n\n".join(lines) + "\n"


def package_page(name: str) -> str:
    """Return the modules of a package; of a whole program, those beside its packages. Search ranks guides first."""
    head = f"---\nsearch: {{boost: 0.001}}\n---\n\n# {name}\n\n"
    if "." in name:
        return f"{head}::: {name}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    modules = sorted(item.name for item in pkgutil.iter_modules(import_module(name).__path__) if not item.ispkg)
    return head + "\n\n".join(f"::: {name}.{module}" for module in modules) + "\n"


def listing_page(name: str, text: str) -> str:
    """Return a YAML file as it is, or the cells of a notebook without their outputs."""
    if name.endswith(".ipynb"):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        return "\n\n".join(cell if kind == "markdown" else f"```python\n{cell}\n```" for kind, cell in cells) + "\n"
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n```yaml\n{text.rstrip()}\n```\n"


def _commands(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    """Yield each command of a group, and of the groups inside, by its name as typed."""
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before} {name}")
        elif not command.hidden:
            yield f"{before} {name}", command


def _command(name: str, command: click.Command) -> list[str]:
    """Return the help of a command as blocks of Markdown."""
    context = click.Context(command, info_name=name)
    anchor = name.replace(" ", "-")
    lines = [f"### {name} {{ #{anchor} }}", *_paragraphs(command.help or "")]
    lines.append(f"```\n{name} {' '.join(command.collect_usage_pieces(context))}\n```")
    if isinstance(command, Command):
        for heading, rows in command.option_groups(context).items():
            lines.append(f"**{heading}**")
            lines.append("\n\n".join(f"`{option}`\n:   {_text(text)}" for option, text in rows))
        if command.help_texts.example:
            lines.append(f"**Example**\n\n```\n{command.help_texts.example}\n```")
    return lines


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; click leaves those as they are that begin with a backspace."""
    for block in inspect.cleandoc(text).split("\n\n"):
        yield f"```\n{inspect.cleandoc(block[1:])}\n```" if block.startswith("\b") else _text(block)


def _text(words: str) -> str:
    """Return plain words as Markdown: what Markdown or HTML would read otherwise is escaped."""
    for sign in ("\\", "*", "_", "[", "]", "<"):
        words = words.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return words
