"""What the figures of an ablation share: how a regime looks, how panels are laid out, where an axis is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from balancer.reporting.plots import PALETTE, subplots
from classifier.training.regimes import REGIMES

MARGIN_BAND = {"color": "#009e73", "alpha": 0.13, "linewidth": 0}
SET_MARKERS = "osDv^P*Xh<>"  # one per synthetic set
WIDTH = 7.4  # inches: a page
_GRID_WIDTHS = {1: 5.0, 2: WIDTH, 3: 8.6, 4: 10.4}  # by panels side by side


def _colours() -> dict[str, str]:
    """The four regimes of the design have a colour each; a control shares one with its augmented twin.

    Eight colours cannot tell seventeen regimes apart: every figure also names them beside what it draws.
    """
    main = [r.name for r in REGIMES.values() if r.group == "all"]
    found = dict(zip(main, PALETTE, strict=False))
    others = list(dict.fromkeys(name.removesuffix("_augment") for name in REGIMES if name not in main))
    free = PALETTE[len(main) :]
    for name in (n for n in REGIMES if n not in main):
        found[name] = free[others.index(name.removesuffix("_augment")) % len(free)]
    return found


COLOURS = _colours()


def fix_ticks(axis: Axis, most: int) -> None:
    """At most ``most`` intervals between round numbers, the same whatever the size of the axes."""
    axis.set_major_locator(MaxNLocator(most, steps=(1, 2, 5, 10)))


def columns_for(count: int) -> int:
    """How many panels stand side by side."""
    return next((c for c, most in ((1, 1), (2, 4), (3, 9)) if count <= most), 4)


def grid(names: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """One panel of ``height`` inches per regime, titled with its name; at most four side by side."""
    columns = columns_for(len(names))
    rows = -(-len(names) // columns)
    figure, axes = subplots(rows, columns, _GRID_WIDTHS[columns], height * rows + 0.6)
    for unused in axes.flat[len(names) :]:
        unused.axis("off")
    panels = dict(zip(names, axes.flat, strict=False))
    for name, panel in panels.items():
        _look(name, panel)
    return figure, panels


def _look(name: str, panel: Axes) -> None:
    panel.set_title(name, fontsize=9, color=COLOURS[name], fontweight="bold")
    panel.tick_params(labelsize=7)
    fix_ticks(panel.xaxis, 6)
    fix_ticks(panel.yaxis, 6)
    panel.grid(alpha=0.2)


def grid_with_strips(names: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """As :func:`grid`, with a second, low panel below each that shares its horizontal axis."""
    columns = columns_for(len(names))
    rows = -(-len(names) // columns)
    figure, axes = subplots(2 * rows, columns, _GRID_WIDTHS[columns], height * rows + 0.6)
    axes[0, 0].get_gridspec().set_height_ratios([3, 1] * rows)
    upper, lower = axes[::2].flat, axes[1::2].flat
    for unused in (*upper[len(names) :], *lower[len(names) :]):
        unused.axis("off")
    panels, strips = (dict(zip(names, half, strict=False)) for half in (upper, lower))
    for name in names:
        _look(name, panels[name])
        panels[name].sharex(strips[name])
        panels[name].tick_params(labelbottom=False)
        strips[name].tick_params(labelsize=7)
        fix_ticks(strips[name].yaxis, 2)
    return figure, panels, strips


def outer_labels(panels: dict[str, Axes], x: str, y: str) -> None:
    """Axis labels on the left column and on the lowest panel of each column."""
    columns = columns_for(len(panels))
    for i, panel in enumerate(panels.values()):
        if i + columns >= len(panels):
            panel.set_xlabel(x, fontsize=8)
        if i % columns == 0:
            panel.set_ylabel(y, fontsize=8)


def rows_axes(names: Sequence[str], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Axes with a line per regime, the first on top: names stay readable however many there are."""
    figure, (axes,) = subplots(1, columns, WIDTH, max(0.42 * len(names), 1.2) + 1.3)
    for k, panel in enumerate(axes):
        panel.set_yticks(range(len(names)), names if k == 0 else [])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.tick_params(labelsize=8)
        panel.tick_params(axis="y", length=0)
        panel.grid(alpha=0.25, axis="x")
        for position in range(1, len(names)):
            panel.axhline(position - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    return figure, list(axes)


def tries_to_be_good(regime: str) -> bool:
    """Whether a regime is meant to do well; the checks, and training on synthetic images alone, may lie far below."""
    return REGIMES[regime].group != "checks" and not REGIMES[regime].replace


def core(names: Sequence[str]) -> list[str]:
    """The regimes whose figures set the axes; the others are cut off where they lie far away."""
    return [n for n in names if tries_to_be_good(n)] or list(names)


def limits(kept: Sequence[float], everything: Sequence[float], at_least: float) -> tuple[float, float]:
    """An axis that holds all of ``kept``, and of ``everything`` what is within half that range of it."""
    low, high = min(kept), max(kept)
    reach = max(high - low, at_least) / 2
    near = [v for v in everything if low - reach <= v <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    pad = max(0.06 * (high - low), (at_least - (high - low)) / 2)
    return low - pad, high + pad


def mark_outside(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """An arrow at the edge for each point that lies off the horizontal axis."""
    low, high = axes.get_xlim()
    for value, height in zip(x, y, strict=True):
        if not low <= value <= high:
            edge, arrow = (low, "<") if value < low else (high, ">")
            axes.plot(edge, height, arrow, color=colour, markersize=5, clip_on=False, zorder=3)


def spread(count: int, width: float) -> np.ndarray:
    """``count`` offsets, evenly over ``width`` about 0; a single one is 0."""
    return np.linspace(-width / 2, width / 2, count) if count > 1 else np.zeros(count)


def annotate(figure: Figure, note: str) -> None:
    """The note below a figure: data and n."""
    engine = figure.get_layout_engine()
    if engine is not None:
        strip = 0.22 / figure.get_figheight()  # inches, however tall the figure
        engine.set(rect=(0, strip, 1, 1 - strip))  # type: ignore[call-arg]  # typed as the base class, which takes no settings
    figure.text(0.01, 0.05 / figure.get_figheight(), note, fontsize=7, color="#666666", ha="left", va="bottom")
