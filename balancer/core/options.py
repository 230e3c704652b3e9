"""Options of commands that set settings, and those that commands share: of the data, and the settings by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from balancer.core.defaults import find_field, help_text
from balancer.core.errors import UsageError
from balancer.core.settings import Settings

SETTING = "setting__"  # options whose name begins so carry a setting's path, with __ for the dots


def setting(flag: str, key: str = "", **attributes: Any) -> SettingOption:
    """Return an option that sets a setting of the command: help text, default and type are those of the settings model.

    Args:
        flag: as in ``--batch-size``.
        key: the setting, dotted for a nested one; by default the flag's name.
        attributes: of the click option.
    """
    return SettingOption(flag, key or flag.lstrip("-").replace("-", "_"), attributes)


@dataclass(frozen=True)
class SettingOption:
    """A click option for a setting. It is made when the command is registered, since the command knows the model."""

    flag: str
    key: str
    attributes: dict[str, Any]

    def option(self, model: type[Settings]) -> Callable[[Any], Any]:
        """Return the click option, described by the settings model."""
        field = find_field(model, self.key)
        kind = next((kind for kind in (bool, int, float) if field.annotation in (kind, kind | None)), None)
        attributes: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": kind} if kind else {}
        attributes |= {"help": help_text(field), **self.attributes}
        name = SETTING + self.key.replace(".", "__")
        return click.option(self.flag, name, default=None, **attributes)


def setting_argument(metavar: str, key: str) -> Callable[[Any], Any]:
    """Return an argument, not an option, that sets a setting of the command; a run that is resumed goes without it."""
    return click.argument(SETTING + key, metavar=f"[{metavar}]", required=False)


Option = SettingOption | Callable[[Any], Any]


@dataclass(frozen=True)
class Options:
    """Options that stand together in ``--help``."""

    heading: str
    options: tuple[Option, ...]


def columns(text: str) -> dict[str, str]:
    """Return ``path=imagename,label=finding`` as settings of the columns; a comma without a role is of a name.

    Raises:
        UsageError: a part is no pair.
    """
    parts: list[str] = []
    for part in text.split(","):
        if parts and part.strip() and "=" not in part:
            parts[-1] += f",{part}"
        elif part.strip():
            parts.append(part)
    pairs = [part.partition("=") for part in parts]
    if not pairs or not all(role.strip() and name.strip() for role, _, name in pairs):
        raise UsageError(f"--columns is {text!r}; expected role=column, as in path=imagename,label=finding")
    return {role.strip(): name.strip() for role, _, name in pairs}


MAIN = "Main options"  # heading of the options that a command adds one by one
DATA = Options(
    "Data",
    (
        setting("--data", "data.path", envvar="BALANCER_DATA", metavar="PATH"),
        setting("--format", "data.format", metavar="NAME"),
        setting(
            "--columns",
            "data.columns",
            metavar="ROLE=NAME,...",
            callback=lambda _context, _option, text: None if text is None else columns(text),
            help="Columns of a table: path, label, patient, split, source. [default: by their usual names]",
        ),
        setting("--images", "data.images", metavar="DIR"),
        setting("--where", "data.where", metavar="COLUMN=VALUE", multiple=True),
        setting("--classes", "data.classes", metavar="OLD=NEW,..."),
        setting("--task", "data.task", metavar="auto|binary|multiclass"),
        setting("--positive", "data.positive", metavar="CLASS"),
        setting("--patients", "data.patients", metavar="FILE"),
        setting("--patient-pattern", "data.patient_pattern", metavar="REGEX|NAME"),
        setting("--image-size", "data.image_size"),
        setting("--channels", "data.channels", metavar="auto|1|3"),
        setting("--test-fraction", "data.test_fraction"),
        setting("--val-fraction", "data.val_fraction"),
        setting("--split-seed", "data.split_seed"),
        setting("--split-by", "data.split_by", metavar="patient|source"),
        setting("--minority", "data.minority"),
        setting("--ratio", "data.ratio"),
        setting("--strict", "data.strict"),
        setting("--max-bad", "data.max_bad"),
    ),
)
SETTINGS = Options(
    "Settings",
    (
        setting("--seed"),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE.yaml",
            help="Settings from a file.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting by name, e.g. data.resize=pad. Repeatable. `balancer settings` explains them.",
        ),
    ),
)
