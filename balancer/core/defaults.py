"""Descriptions of settings, for help texts, and configs/default.yaml: ``python -m balancer.core.defaults > FILE``."""

from __future__ import annotations

import re

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from balancer.core.setting_types import SearchRange, Unset
from balancer.core.settings import CLASSIFIERS, SECTIONS, ClassifierConfig

HEAD = """\
# Every setting and its default, by `python -m balancer.core.defaults`. Copy what you change; pass it with --config.
# A section per command. `data` is shared by all commands, `classifier` by train, ablate, tune, components,
# crossvalidate and the commands of a federation; a command's own section is laid over both. --set KEY=VALUE changes
# one setting on the command line.
"""


def find_field(model: type[BaseModel], key: str) -> FieldInfo:
    """Return the field of a dotted key, such as ``data.image_size``."""
    first, _, rest = key.partition(".")
    field = model.model_fields[first]
    return find_field(field.annotation, rest) if rest else field  # type: ignore[arg-type]  # a section is a model


def search_range(key: str, model: type[BaseModel] = ClassifierConfig) -> SearchRange:
    """Return where a search looks for a setting; the range stands beside the setting's default."""
    return next(item for item in find_field(model, key).metadata if isinstance(item, SearchRange))


def unset_meaning(field: FieldInfo) -> str | None:
    """Return what null stands for; None if the model does not say."""
    return next((item.meaning for item in field.metadata if isinstance(item, Unset)), None)


def help_text(field: FieldInfo) -> str:
    """Return the description of a setting and its default, for ``--help``.

    >>> from balancer.core.settings import GanTrainConfig
    >>> help_text(GanTrainConfig.model_fields["steps"])
    'Optimiser steps. [default: 16000]'
    """
    default = default_text(field)
    return f"{field.description or ''} [default: {default}]".strip() if default else field.description or ""


def default_text(field: FieldInfo) -> str | None:
    """Return the default of a setting in words; None if nothing is set by default."""
    if (meaning := unset_meaning(field)) is not None:
        return meaning
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if field.default in (None, ()):
        return None
    return ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)


def default_yaml() -> str:
    """Return configs/default.yaml."""
    return HEAD + "".join(f"\n{name}:\n{_section(name, model)}" for name, model in SECTIONS.items())


def _section(name: str, model: type[BaseModel]) -> str:
    shared = set() if name == "data" else {"data"}
    shared |= set(ClassifierConfig.model_fields) if name in CLASSIFIERS else set()
    lines = []
    for key, value in model().model_dump(mode="json", exclude=shared).items():
        text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False).strip()[1:-1]
        lines.append(_with_comment(f"  {key}: {text}\n", model.model_fields[key]))
    return "".join(lines)


def _with_comment(text: str, field: FieldInfo) -> str:
    """Return a line with the first sentence of the description, and what null stands for."""
    words = [re.split(r"(?<!et al)\. ", field.description or "")[0].rstrip(".")]
    if (meaning := unset_meaning(field)) and field.default is None:
        words.append(f"null: {meaning}")
    comment = "; ".join(word for word in words if word)
    return f"{text.rstrip()}  # {comment}\n" if comment else text


if __name__ == "__main__":
    print(default_yaml(), end="")
