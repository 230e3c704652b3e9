"""The spaces that `classifier tune` searches, by name. A parameter's values are settings, so a point is a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from balancer.core.config import flatten, merge, nested, validate
from balancer.core.defaults import search_range
from balancer.core.errors import UsageError
from balancer.core.settings import TuneConfig

Label = str | float | int | bool
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Categorical:
    """A parameter with listed values: a label each, and the settings that it stands for."""

    name: str
    options: Mapping[Label, Mapping[str, Any]]
    augmenting: bool = False  # only searched in regimes that augment

    @property
    def keys(self) -> set[str]:
        """Return the settings that the parameter sets, dotted."""
        return {key for settings in self.options.values() for key in flatten(settings)}

    def settings(self, label: Label) -> Mapping[str, Any]:
        """Return the settings of one value."""
        return self.options[label]


@dataclass(frozen=True)
class Range:
    """A setting between two numbers, both included; with ``log``, every decade is as likely."""

    name: str
    low: float
    high: float
    log: bool = False
    augmenting: bool = False

    @property
    def keys(self) -> set[str]:
        """Return the setting, dotted."""
        return {self.name}

    def settings(self, value: float) -> Mapping[str, Any]:
        """Return the settings of one value."""
        return nested(self.name, value)


@dataclass(frozen=True)
class Space:
    """Parameters, the default search, and the settings under which the space was published."""

    name: str
    about: str
    parameters: tuple[Categorical | Range, ...]
    sampler: str
    pruner: str
    needs: Mapping[str, Any] = field(default_factory=dict)  # settings that the parameters require
    fixed: Mapping[str, Any] = field(default_factory=dict)  # defaults for this space; the user's settings win

    @property
    def size(self) -> int | None:
        """Return the number of points, or None if a parameter is continuous."""
        if any(isinstance(p, Range) for p in self.parameters):
            return None
        return math.prod(len(p.options) for p in self.parameters if isinstance(p, Categorical))

    def grid(self) -> dict[str, list[Label]]:
        """Return the values of every parameter by name.

        Raises:
            UsageError: if a parameter is continuous.
        """
        if continuous := [p.name for p in self.parameters if isinstance(p, Range)]:
            raise UsageError(
                f"sampler grid needs listed values, and {', '.join(continuous)} of space {self.name} are continuous; "
                "use tpe or random"
            )
        return {p.name: list(p.options) for p in self.parameters if isinstance(p, Categorical)}

    def config(self, base: TuneConfig, params: Params) -> TuneConfig:
        """Return the settings of a point: ``base`` with the settings of ``params``.

        Dropout rates beyond the number of dense layers do nothing and are left out, so that equal networks have equal
        settings.
        """
        chosen = [p.settings(params[p.name]) for p in self.parameters]
        values = merge(base.model_dump(), self.needs, *chosen)
        values["s2"]["dropout"] = values["s2"]["dropout"][: len(values["s2"]["dense"])]
        return validate(TuneConfig, values)

    def for_regime(self, augmenting: bool) -> Space:
        """Return the space without the parameters that do nothing in a regime."""
        return replace(self, parameters=tuple(p for p in self.parameters if augmenting or not p.augmenting))


def among(name: str, *values: Any, augmenting: bool = False) -> Categorical:
    """Return a setting with listed values; a list of numbers is labelled ``32-64``, an empty one ``none``."""
    return Categorical(name, {_label(v): nested(name, v) for v in values}, augmenting)


def _label(value: Any) -> Label:
    if isinstance(value, tuple):
        return "-".join(f"{v:g}" for v in value) or "none"
    label: Label = value
    return label


def around_default(key: str, augmenting: bool = False) -> Categorical | Range:
    """Return a setting with the search range that stands beside its default in the settings model."""
    searched = search_range(key)
    if searched.values:
        return among(key, *searched.values, augmenting=augmenting)
    return Range(key, searched.low, searched.high, searched.log, augmenting)


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
            "the published grid of the CNN + DCGAN system: 5 x 6 x 5 x 2 = 300 points, which are 200 different "
            "networks",
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
