"""Types of settings: marks that help texts and searches read, and lists that flags and YAML write in short."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Unset:
    """What null stands for, in a setting that may be null."""

    meaning: str


@dataclass(frozen=True)
class SearchRange:
    """Where a search looks for a setting: between two numbers, or among listed values."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False  # every decade is as likely
    values: tuple[Any, ...] = ()


def _listed(value: Any) -> Any:
    """Return ``a,b`` as a list, for flags and for hand-written YAML."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    """Return ``0,.5`` as a list; YAML reads a single number as one."""
    return [value] if isinstance(value, int | float) else _listed(value)


def _folders(value: Any) -> Any:
    """Return one folder as a list; a comma may be part of its name."""
    return [value] if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """Return ``a=x,b`` as a list of names with their new names; the last ``=`` parts the two, or a name stays.

    A pair with a comma in it stands in double quotes, as in a table.
    """
    quoted = isinstance(value, str) and '"' in value
    parts = _listed(next(csv.reader([value], skipinitialspace=True), []) if quoted else value)
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return parts
    if empty := next((part for part in parts if not all(side.strip() for side in part.rsplit("=", 1))), None):
        raise PydanticCustomError("no_pair", "{part!r} lacks a name; expected name=name here", {"part": empty})
    return parts


def _conditions(value: Any) -> Any:
    """Return ``a=x,b!=y`` as a list of conditions. A comma belongs to a value if no condition follows the comma."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return texts
    conditions: list[str] = []
    for text in texts:
        parts = text.split(",")
        conditions += parts if all("=" in part for part in parts) else [text]
    for condition in conditions:
        if not condition.partition("=")[0].removesuffix("!").strip():
            raise PydanticCustomError("no_condition", "expected column=value or column!=value")
    return [condition.strip() for condition in conditions]


def _pattern(value: Any) -> Any:
    """Refuse a pattern that is none, or has no group ``patient``; a preset's name stays."""
    if not isinstance(value, str) or value in PATIENT_PATTERNS:
        return value
    try:
        groups = re.compile(value).groupindex
    except re.error as error:
        reason = str(error)
        raise PydanticCustomError("no_pattern", "it is no regular expression ({reason})", {"reason": reason}) from error
    if "patient" not in groups:
        known = ", ".join(PATIENT_PATTERNS)
        raise PydanticCustomError("no_group", "expected (?P<patient>...) in it, or one of {known}", {"known": known})
    return value


def _window(value: Any) -> Any:
    """Refuse what is no window: ``auto``, ``full``, or a centre and a width above 0."""
    if not isinstance(value, str) or value in ("auto", "full"):
        return value
    try:
        centre, width = map(float, value.split("/"))
    except ValueError:
        centre, width = math.nan, 0.0
    if not (math.isfinite(centre) and 0 < width < math.inf):
        raise PydanticCustomError("no_window", "expected auto, full, or CENTRE/WIDTH such as -600/1500")
    return value


def _digit(value: Any) -> Any:
    """Return a number written as text, as flags give one, as a number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def refuse_booleans(model: Any, value: Any, info: ValidationInfo) -> Any:
    """Refuse true and false where a setting of a model is no switch; pydantic would read them as 1 and 0."""
    if any(isinstance(v, bool) for v in (value if isinstance(value, list | tuple) else [value])):
        kind = model.model_fields[info.field_name].annotation
        if kind not in (bool, str):  # text has its own words for them
            raise PydanticCustomError("no_switch", "expected no true or false here")
    return value


def off(value: Any) -> Any:
    """Return ``off`` for false: YAML reads a bare ``off`` so."""
    return "off" if value is False else value


# Patients in the file names of published sets, as a pattern searched for in the path; `folder`: a folder per patient.
PATIENT_PATTERNS = {
    "nih": r"(?:^|/)(?P<patient>\d{8})_\d{3}(?!\d)",  # ChestX-ray14: 00000013_005.png
    "chexpert": r"(?:^|/)(?P<patient>patient\d+)/study\d+/",  # patient00001/study1/view1_frontal.jpg
    "kaggle": r"(?:^|/)(?:NORMAL2-)?(?P<patient>person\d+(?=_)|IM-\d+)",  # person23_bacteria_86, NORMAL2-IM-0995-0001
    "mendeley": r"(?:^|/)(?:NORMAL|BACTERIA|VIRUS)-(?P<patient>\d+)-\d{4}(?!\d)",  # BACTERIA-1008087-0001
    "folder": r"(?:^|/)(?P<patient>[^/]+)/[^/]+$",
}
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Changes = Annotated[tuple[str, ...], BeforeValidator(_folders)]  # key=value; a comma may be part of a value
Pairs = Annotated[tuple[str, ...], BeforeValidator(_pairs)]
Conditions = Annotated[tuple[str, ...], BeforeValidator(_conditions)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Window = Annotated[str, BeforeValidator(_window)]
Folders = Annotated[tuple[str, ...], BeforeValidator(_folders)]
# Numbers have a highest value, far above any use. Beyond it a run would end for want of memory, not of time.
MOST_IMAGES = 10_000_000
MOST_TRIALS = 100_000
Steps = Annotated[int, Field(ge=1, le=100_000_000)]
Images = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Batch = Annotated[int, Field(ge=2, le=65_536)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Validations = Annotated[int, Field(ge=1, le=100_000)]
Patience = Annotated[int, Field(ge=0, le=100_000)]
Repeats = Annotated[int, Field(ge=1, le=1000)]
Widths = Annotated[tuple[Width, ...], BeforeValidator(_numbers)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(_numbers)]
Trainable = Literal["all", "head"] | Width
Optimizer = Literal["adam", "adamw", "sgd"]
Precision = Literal["auto", "float32", "bfloat16"]
StepMode = Literal["plain", "compiled", "graph"]
Resize = Literal["squash", "pad", "crop"]
Channels = Annotated[Literal["auto", 1, 3], BeforeValidator(_digit)]
Schedule = Literal["constant", "cosine", "step", "plateau", "one_cycle", "triangular"]
Sizes = Annotated[tuple[Literal["all"] | Annotated[int, Field(ge=16, le=MOST_IMAGES)], ...], BeforeValidator(_numbers)]
Doses = Annotated[tuple[Annotated[float, Field(ge=0, le=1000)], ...], BeforeValidator(_numbers)]
