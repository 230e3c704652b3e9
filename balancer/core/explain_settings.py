"""`balancer settings`: the meaning, the range and the default of every setting, from the settings models."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from balancer.core.config import setting_names
from balancer.core.defaults import default_text, find_field
from balancer.core.errors import UsageError, nearest
from balancer.core.files import JsonObject
from balancer.core.settings import CLASSIFIER, CLASSIFIERS, SECTIONS

KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
LIMITS = {Ge: "{} or more", Gt: "above {}", Le: "at most {}", Lt: "below {}"}


@dataclass(frozen=True)
class SettingFacts:
    """What is said of a setting."""

    name: str  # dotted, as --set takes it
    section: str  # of a config file
    commands: str  # that have it, as typed
    default: str
    values: str
    meaning: str

    def describe(self) -> str:
        """Return the facts as lines."""
        lines = [f"{self.name}: {self.meaning}", f"  values   {self.values}", f"  default  {self.default}"]
        return "\n".join([*lines, f"  section  {self.section} ({self.commands})"])


@dataclass(frozen=True)
class SettingsList:
    """Several settings."""

    settings: list[SettingFacts]
    in_full: bool

    def to_json(self) -> JsonObject:
        """Return the facts on each setting."""
        return {"settings": [asdict(facts) for facts in self.settings]}

    def describe(self) -> str:
        """Return all facts on each setting, or a line each by section."""
        if self.in_full:
            return "\n\n".join(facts.describe() for facts in self.settings)
        width = max(len(facts.name) for facts in self.settings)
        lines = []
        for section in dict.fromkeys(facts.section for facts in self.settings):
            inside = [facts for facts in self.settings if facts.section == section]
            lines += ["", f"{section} ({inside[0].commands}):"]
            lines += [f"  {facts.name:<{width}}  {facts.meaning} [default: {facts.default}]" for facts in inside]
        return "\n".join(lines[1:])


def all_settings() -> list[SettingFacts]:
    """Return the facts on every setting, each under the section that defines it."""
    return [
        SettingFacts(f"data.{key}" if section == "data" else key, section, _commands(section), *_of(model, key))
        for section, model in SECTIONS.items()
        for key in setting_names(model)
        if section == "data" or not key.startswith("data.")
        if section not in CLASSIFIERS or key not in setting_names(SECTIONS[CLASSIFIER])
    ]


def explain_settings(name: str | None) -> SettingsList:
    """Return the settings of a name, such as ``steps``, ``gan_train.steps`` or a section; of none, all settings.

    Raises:
        UsageError: there is no such setting or section.
    """
    settings = all_settings()
    if name is None:
        return SettingsList(settings, in_full=False)
    key = name.replace("-", "_")
    if key in SECTIONS:
        return SettingsList([facts for facts in settings if facts.section == key], in_full=False)
    named = [facts for facts in settings if key in (f"{facts.section}.{facts.name}", *_endings(facts.name))]
    if not named:
        known = {facts.name for facts in settings} | set(SECTIONS)
        raise UsageError(f"no setting is named {name!r}; {nearest(name, known)}")
    return SettingsList(named, in_full=True)


def _endings(name: str) -> tuple[str, str]:
    """Return a dotted name, and its last part."""
    return name, name.rpartition(".")[2]


def _commands(section: str) -> str:
    if section == "data":
        return "every command that reads a data set"
    names = sorted(CLASSIFIERS) if section == CLASSIFIER else [section]
    return ", ".join(name.replace("_", "-") for name in names)


def _of(model: type[BaseModel], key: str) -> tuple[str, str, str]:
    """Return the default, the values and the meaning of a setting."""
    field = find_field(model, key)
    return default_text(field) or "none", values_text(field), (field.description or "").rstrip(".")


def values_text(field: FieldInfo) -> str:
    """Return which values a setting takes, in words.

    >>> from balancer.core.settings import GanTrainConfig
    >>> values_text(GanTrainConfig.model_fields["ema_decay"])
    'number, 0 or more, below 1'
    """
    return _values(field.annotation, field.metadata)


def _values(kind: Any, limits: Sequence[Any] = ()) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        of_fields = [
            limit for item in inside[1:] for limit in (item.metadata if isinstance(item, FieldInfo) else [item])
        ]
        return _values(inside[0], [*limits, *of_fields])
    if origin is Literal:
        return ", ".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return ", or ".join(_values(item, limits) for item in inside if item is not type(None))
    if origin is tuple:
        return f"list of: {_values(inside[0])}"
    if issubclass(kind, BaseModel):
        return f"mapping of {', '.join(kind.model_fields)}"
    bounds = [(LIMITS[type(x)], getattr(x, type(x).__name__.lower())) for x in limits if type(x) in LIMITS]
    return ", ".join([KINDS[kind], *(words.format(f"{bound:,}") for words, bound in bounds)])
