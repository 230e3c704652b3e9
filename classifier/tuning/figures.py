"""Figures of a search: pure readers of its rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from balancer.reporting.plots import BLUE, GREY, VERMILION, subplots
from classifier.report.axes import fix_ticks
from classifier.tuning.spaces import Choice, Range, Space
from classifier.tuning.storage import Row

FIGURE = "validation NLL"
PALE = "#b5b5b5"


def draw_all(found: list[Row], space: Space, importances: dict[str, float] | None) -> dict[str, Figure]:
    """Every figure that there is something for, by name."""
    made = {
        "history": history(found),
        "slices": slices(found, space),
        "parallel": parallel(found, space),
    }
    return made | ({"importance": importance(importances)} if importances else {})


def whole(found: list[Row]) -> list[Row]:
    """The trials that were not pruned."""
    return [row for row in found if row["state"] == "complete"]


def best(found: list[Row]) -> Row:
    """The trial with the lowest figure; the earliest of several."""
    return min(whole(found), key=lambda row: (row["value"], row["trial"]))


def history(found: list[Row]) -> Figure:
    """The figure of every trial as it came, and the best so far. A cross: pruned, at the last look."""
    figure, ((axes,),) = subplots(1, 1, 7.4, 3.4)
    drawn = [row for row in found if row["value"] is not None]
    shown = _shown([row["value"] for row in drawn])
    for state, marker, colour, label in (("complete", "o", BLUE, "finished"), ("pruned", "x", GREY, "pruned")):
        mine = [(row["trial"], y) for row, y in zip(drawn, shown, strict=True) if row["state"] == state]
        if mine:
            axes.plot(*zip(*mine, strict=True), marker, color=colour, markersize=4, label=label)
    done = whole(found)
    lowest = np.minimum.accumulate([row["value"] for row in done])
    axes.step([row["trial"] for row in done], lowest, where="post", color=VERMILION, label="best so far")
    _figure_axis(axes, shown, vertical=True)
    axes.set_xlabel("trial", fontsize=8)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def slices(found: list[Row], space: Space) -> Figure:
    """The figure against each parameter in turn, whatever the others were; a bar is the median of a listed value."""
    columns = min(len(space.parameters), 3)
    lines = -(-len(space.parameters) // columns)
    figure, grid = subplots(lines, columns, 2.6 * columns + 0.6, 2.4 * lines)
    done = whole(found)
    shown = _shown([row["value"] for row in done])
    for unused in grid.flat[len(space.parameters) :]:
        unused.axis("off")
    for i, (parameter, axes) in enumerate(zip(space.parameters, grid.flat, strict=False)):
        _slice(axes, [row["params"][parameter.name] for row in done], shown, parameter)
        _figure_axis(axes, shown, vertical=i % columns == 0)
        axes.set_title(parameter.name, fontsize=9)
    return figure


def _slice(axes: Axes, at: list[Any], shown: np.ndarray, parameter: Choice | Range) -> None:
    """One panel: ``at`` (n,) values of the parameter, ``shown`` (n,) figures."""
    if isinstance(parameter, Range):
        places = np.array(at)
        axes.set_xscale("log" if parameter.log else "linear")
        axes.set_xlim(parameter.low, parameter.high)
    else:
        labels = list(parameter.options)
        places = np.array([labels.index(value) for value in at], dtype=float)
        for place in range(len(labels)):
            mine = places == place
            if mine.any():
                axes.plot([place - 0.3, place + 0.3], [np.median(shown[mine])] * 2, color=GREY, linewidth=1.4)
        names = [str(label) for label in labels]
        tilted = max(map(len, names)) > 5
        axes.set_xticks(range(len(names)), names, rotation=25 * tilted, ha="right" if tilted else "center")
        axes.set_xlim(-0.6, len(names) - 0.4)
    axes.axvline(places[int(shown.argmin())], color=VERMILION, linewidth=0.8, zorder=0)
    jitter = _spread(places) if isinstance(parameter, Choice) else 0
    axes.plot(places + jitter, shown, "o", color=BLUE, markersize=3, alpha=0.7)
    axes.tick_params(labelsize=7)


def _spread(places: np.ndarray) -> np.ndarray:
    """Offsets within .2 that set the points of one place apart."""
    offsets = np.zeros(len(places))
    for place in np.unique(places):
        mine = np.flatnonzero(places == place)
        offsets[mine] = np.linspace(-0.2, 0.2, len(mine)) if len(mine) > 1 else 0
    return offsets


def parallel(found: list[Row], space: Space) -> Figure:
    """Every finished trial as a line over its parameters; blue, the best tenth; vermilion, the best."""
    figure, ((axes,),) = subplots(1, 1, max(1.15 * len(space.parameters) + 1.4, 5.0), 3.8)
    ranked = sorted(whole(found), key=lambda row: (row["value"], row["trial"]))
    best_tenth = math.ceil(len(ranked) / 10)
    for rank, row in reversed(list(enumerate(ranked))):
        colour, width = (VERMILION, 2.0) if rank == 0 else (BLUE, 1.1) if rank < best_tenth else (PALE, 0.5)
        heights = [_height(p, row["params"][p.name]) for p in space.parameters]
        axes.plot(range(len(heights)), heights, color=colour, linewidth=width, zorder=3 if rank < best_tenth else 1)
    for place, parameter in enumerate(space.parameters):
        axes.axvline(place, color=GREY, linewidth=0.8, zorder=2)
        for text, height in _marks(parameter):
            axes.text(place + 0.04, height, text, fontsize=6.5, va="center", zorder=4, bbox=_halo())
    axes.set_xticks(range(len(space.parameters)), [p.name for p in space.parameters], fontsize=8)
    axes.set_xlim(-0.1, len(space.parameters) - 0.4)
    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def _halo() -> dict[str, object]:
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


def _height(parameter: Choice | Range, value: float | str | bool) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if isinstance(parameter, Choice):
        return list(parameter.options).index(value) / max(len(parameter.options) - 1, 1)
    low, high, at = (math.log(v) if parameter.log else v for v in (parameter.low, parameter.high, float(value)))
    return (at - low) / (high - low)


def _marks(parameter: Choice | Range) -> list[tuple[str, float]]:
    if isinstance(parameter, Choice):
        return [(str(label), _height(parameter, label)) for label in parameter.options]
    middle = math.sqrt(parameter.low * parameter.high) if parameter.log else (parameter.low + parameter.high) / 2
    return [(f"{v:.2g}", _height(parameter, v)) for v in (parameter.low, middle, parameter.high)]


def importance(shares: dict[str, float]) -> Figure:
    """How much of the variance of the log figure each parameter explains."""
    names = list(shares)
    figure, ((axes,),) = subplots(1, 1, 6.0, 0.34 * len(names) + 0.9)
    axes.barh(range(len(names)), list(shares.values()), color=BLUE, height=0.6)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, max(max(shares.values()) * 1.15, 0.1))
    for place, share in enumerate(shares.values()):
        axes.text(share, place, f" {share:.2f}".replace("0.", ".", 1), fontsize=7.5, va="center")
    axes.set_xlabel("share of the variance of log NLL", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    return figure


def _shown(values: list[float]) -> np.ndarray:
    """Figures as drawn: a training that went astray stands at the upper edge, five times the median, and squeezes no other."""
    return np.minimum(values, 5 * float(np.median(values))) if values else np.empty(0)


def _figure_axis(axes: Axes, shown: np.ndarray, vertical: bool) -> None:
    """The axis of the figure: logarithmic where the largest is several times the lowest."""
    low, high = float(shown.min()), float(shown.max())
    if high > 3 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.08, high * 1.08)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=9))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        pad = max(0.06 * (high - low), 0.01 * high, 1e-6)
        axes.set_ylim(low - pad, high + pad)
        fix_ticks(axes.yaxis, 6)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.2, axis="y")
    if vertical:
        axes.set_ylabel(FIGURE, fontsize=8)
