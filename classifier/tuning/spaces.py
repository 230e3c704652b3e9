"""What `classifier tune` may search: spaces as records, by name. A parameter's values are settings, so a point is a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from balancer.core.config import flatten, merge, nested, validate
from balancer.core.defaults import search_range
from balancer.core.errors import UsageError, lookup
from balancer.core.settings import TuneConfig

Label = str | float | int | bool
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Categorical:
    """A parameter with listed values: what each is called, and the settings that it stands for."""

    name: str
    options: Mapping[Label, Mapping[str, Any]]
    augmenting: bool = False  # only matters in regimes that augment, and is only searched in them

    @property
    def keys(self) -> set[str]:
        """The settings that it sets, dotted."""
        return {key for settings in self.options.values() for key in flatten(settings)}

    def settings(self, label: Label) -> Mapping[str, Any]:
        """The settings of one value."""
        return self.options[label]


@dataclass(frozen=True)
class Range:
    """A setting between two numbers, both possible; with ``log``, every decade is as likely."""

    name: str
    low: float
    high: float
    log: bool = False
    augmenting: bool = False

    @property
    def keys(self) -> set[str]:
        return {self.name}

    def settings(self, value: float) -> Mapping[str, Any]:
        return nested(self.name, value)


@dataclass(frozen=True)
class Space:
    """Parameters, how they are searched unless told otherwise, and the settings under which the space was published."""

    name: str
    about: str
    parameters: tuple[Categorical | Range, ...]
    sampler: str
    pruner: str
    needs: Mapping[str, Any] = field(default_factory=dict)  # settings without which the parameters mean nothing
    fixed: Mapping[str, Any] = field(default_factory=dict)  # defaults for this space; what the user gives wins

    @property
    def size(self) -> int | None:
        """Points, or None where a parameter is continuous."""
        if any(isinstance(p, Range) for p in self.parameters):
            return None
        return math.prod(len(p.options) for p in self.parameters if isinstance(p, Categorical))

    def grid(self) -> dict[str, list[Label]]:
        """The values of every parameter by name.

        Raises:
            UsageError: a parameter is continuous.
        """
        if continuous := [p.name for p in self.parameters if isinstance(p, Range)]:
            raise UsageError(
                f"sampler grid needs listed values, and {', '.join(continuous)} of space {self.name} are continuous; use tpe or random"
            )
        return {p.name: list(p.options) for p in self.parameters if isinstance(p, Categorical)}

    def config(self, base: TuneConfig, params: Params) -> TuneConfig:
        """The settings of a point: ``base`` with what ``params`` stand for.

        Dropout rates beyond the number of dense layers do nothing and are left out, so that two points which are the same
        network have the same settings.
        """
        chosen = [p.settings(params[p.name]) for p in self.parameters]
        values = merge(base.model_dump(), self.needs, *chosen)
        values["s2"]["dropout"] = values["s2"]["dropout"][: len(values["s2"]["dense"])]
        return validate(TuneConfig, values)

    def for_regime(self, augmenting: bool) -> Space:
        """Without the parameters that do nothing in a regime."""
        return replace(self, parameters=tuple(p for p in self.parameters if augmenting or not p.augmenting))


def among(name: str, *values: Any, augmenting: bool = False) -> Categorical:
    """One setting with listed values; a list of numbers is called ``32-64``, the empty one ``none``."""
    return Categorical(name, {_label(v): nested(name, v) for v in values}, augmenting)


def _label(value: Any) -> Label:
    if isinstance(value, tuple):
        return "-".join(f"{v:g}" for v in value) or "none"
    label: Label = value
    return label


def around_default(key: str, augmenting: bool = False) -> Categorical | Range:
    """Return a setting with the search range that stands beside its default in the settings model."""
    where = search_range(key)
    if where.values:
        return among(key, *where.values, augmenting=augmenting)
    return Range(key, where.low, where.high, where.log, augmenting)


def search_space(name: str) -> Space:
    """A registered space.

    Raises:
        UsageError: no such name.
    """
    return lookup(SPACES, name, "space")


_S2 = {
    "normalisation": "unit",
    "augmentation": "s2",
    "batch_size": 32,
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "ema_decay": 0.0,
    "bn_statistics": "running",
}


SPACES = {
    space.name: space
    for space in (
        Space(
            "s2_grid",
            "the published grid of the CNN + DCGAN system: 5 x 6 x 5 x 2 = 300 points, which are 200 different networks",
            (
                among("s2.conv", (32, 64), (32, 64, 128), (32, 64, 128, 128), (32, 64, 128, 256), (64, 128, 256, 256)),
                among("s2.dense", (), (512,), (256,), (256, 256), (512, 256), (512, 512)),
                among("s2.dropout", (0.2,), (0.5,), (0.2, 0.2), (0.2, 0.5), (0.5, 0.5)),
                among("batch_norm", True, False),
            ),
            "grid",
            "none",
            {"model": "s2_cnn"},
            _S2,
        ),
        Space(
            "wide",
            "optimisation, regularisation, input and network size, around the defaults of this toolkit",
            (
                Categorical(
                    "network",
                    {
                        "small_cnn": {"model": "small_cnn"},
                        "s2_cnn 32-64": {"model": "s2_cnn", "s2": {"conv": (32, 64)}},
                        "s2_cnn 32-64-128": {"model": "s2_cnn", "s2": {"conv": (32, 64, 128)}},
                        "s2_cnn 32-64-128-128": {"model": "s2_cnn", "s2": {"conv": (32, 64, 128, 128)}},
                    },
                ),
                around_default("lr"),
                around_default("weight_decay"),
                around_default("batch_size"),
                around_default("schedule"),
                around_default("normalisation"),
                around_default("ema_decay"),
                around_default("label_smoothing"),
                around_default("augmentation", augmenting=True),
            ),
            "tpe",
            "median",
        ),
    )
}
