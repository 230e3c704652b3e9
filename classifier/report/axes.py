"""What the figures of an ablation share: colours of regimes, grids of axes, axis limits, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from balancer.reporting.plots import PALETTE, subplots
from classifier.training.regimes import REGIMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MARGIN_BAND: dict[str, Any] = {"color": "#009e73", "alpha": 0.13, "linewidth": 0}
SET_MARKERS = "osDv^P*Xh<>"  # one per synthetic set
WIDTH = 7.4  # inches: a page
_GRID_WIDTHS = {1: 5.0, 2: WIDTH, 3: 8.6, 4: 10.4}  # inches, by the number of columns


def _colours() -> dict[str, str]:
    """Return a colour per regime: one for each regime of the 2 x 2 design, one for a control and its augmented twin.

    Eight colours cannot tell seventeen regimes apart, so every figure also names the regimes.
    """
    main = [r.name for r in REGIMES.values() if r.group == "all"]
    colours = dict(zip(main, PALETTE, strict=False))
    others = list(dict.fromkeys(name.removesuffix("_augment") for name in REGIMES if name not in main))
    free = PALETTE[len(main) :]
    for name in (n for n in REGIMES if n not in main):
        colours[name] = free[others.index(name.removesuffix("_augment")) % len(free)]
    return colours


COLOURS = _colours()


def fix_ticks(axis: Axis, most: int) -> None:
    """Set at most ``most`` intervals between round numbers, the same for every size of the axes."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=(1, 2, 5, 10)))


def columns_for(count: int) -> int:
    """Return how many axes stand side by side."""
    return next((c for c, most in ((1, 1), (2, 4), (3, 9)) if count <= most), 4)


def grid(names: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """Return axes of ``height`` inches per regime, under its name; at most four side by side."""
    columns = columns_for(len(names))
    rows = -(-len(names) // columns)
    figure, array = subplots(rows, columns, _GRID_WIDTHS[columns], height * rows + 0.6)
    for unused in array.flat[len(names) :]:
        unused.axis("off")
    by_name = dict(zip(names, array.flat, strict=False))
    for name, axes in by_name.items():
        _style(name, axes)
    return figure, by_name


def _style(name: str, axes: Axes) -> None:
    axes.set_title(name, fontsize=9, color=COLOURS[name], fontweight="bold")
    axes.tick_params(labelsize=7)
    fix_ticks(axes.xaxis, 6)
    fix_ticks(axes.yaxis, 6)
    axes.grid(alpha=0.2)


def grid_with_strips(names: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """Return axes as :func:`grid` does, and low axes below each that share its horizontal axis."""
    columns = columns_for(len(names))
    rows = -(-len(names) // columns)
    figure, array = subplots(2 * rows, columns, _GRID_WIDTHS[columns], height * rows + 0.6)
    array[0, 0].get_gridspec().set_height_ratios([3, 1] * rows)
    upper, lower = array[::2].flat, array[1::2].flat
    for unused in (*upper[len(names) :], *lower[len(names) :]):
        unused.axis("off")
    by_name, strips = (dict(zip(names, half, strict=False)) for half in (upper, lower))
    for name in names:
        _style(name, by_name[name])
        by_name[name].sharex(strips[name])
        by_name[name].tick_params(labelbottom=False)
        strips[name].tick_params(labelsize=7)
        fix_ticks(strips[name].yaxis, 2)
    return figure, by_name, strips


def outer_labels(by_name: dict[str, Axes], x: str, y: str) -> None:
    """Label the left column, and the lowest axes of each column."""
    columns = columns_for(len(by_name))
    for i, axes in enumerate(by_name.values()):
        if i + columns >= len(by_name):
            axes.set_xlabel(x, fontsize=8)
        if i % columns == 0:
            axes.set_ylabel(y, fontsize=8)


def rows_axes(names: Sequence[str], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return axes with a line per regime, the first on top. Names stay readable however many there are."""
    figure, (row,) = subplots(1, columns, WIDTH, max(0.42 * len(names), 1.2) + 1.3)
    for k, axes in enumerate(row):
        axes.set_yticks(range(len(names)), names if k == 0 else [])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(alpha=0.25, axis="x")
        for position in range(1, len(names)):
            axes.axhline(position - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    return figure, list(row)


def is_competitive(regime: str) -> bool:
    """Return whether a regime is meant to do well; checks and training on synthetic images alone are not."""
    return REGIMES[regime].group != "checks" and not REGIMES[regime].replace


def competitive(names: Sequence[str]) -> list[str]:
    """Return the regimes that set the axis limits; other regimes are cut off if they lie far away."""
    return [name for name in names if is_competitive(name)] or list(names)


def limits(covered: Sequence[float], everything: Sequence[float], at_least: float) -> tuple[float, float]:
    """Return axis limits that cover ``covered``, and any point of ``everything`` at most half that range outside it.

    Args:
        covered: values that must be covered.
        everything: all values.
        at_least: the smallest range.
    """
    low, high = min(covered), max(covered)
    reach = max(high - low, at_least) / 2
    near = [v for v in everything if low - reach <= v <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    pad = max(0.06 * (high - low), (at_least - (high - low)) / 2)
    return low - pad, high + pad


def mark_outside(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Draw an arrow at the edge for each point off the horizontal axis."""
    low, high = axes.get_xlim()
    for value, height in zip(x, y, strict=True):
        if not low <= value <= high:
            edge, arrow = (low, "<") if value < low else (high, ">")
            axes.plot(edge, height, arrow, color=colour, markersize=5, clip_on=False, zorder=3)


def compared_with(regime: str) -> str | None:
    """Return the regime that a regime is drawn beside: the reference, or the baseline for its own reference."""
    reference = REGIMES[regime].reference
    if reference == regime:
        return None if regime == "baseline" else "baseline"
    return reference


def margin_bands(axes: Axes, means: Mapping[str, float], margin: float) -> list[float]:
    """Draw the margin around the mean of each regime's reference, in the regime's row; return the bands' ends.

    Args:
        axes: with a row per regime, as :func:`rows_axes` makes them.
        means: by regime, in the order of the rows.
        margin: below which a difference is of no use.
    """
    from matplotlib.patches import Rectangle

    ends = []
    for y, name in enumerate(means):
        reference = compared_with(name)
        if reference is not None and reference in means:
            low, high = means[reference] - margin, means[reference] + margin
            axes.add_patch(Rectangle((low, y - 0.42), high - low, 0.84, **MARGIN_BAND))
            ends += [low, high]
    return ends


def spread(count: int, width: float) -> np.ndarray:
    """Return ``count`` offsets, evenly over ``width`` about 0; a single offset is 0."""
    return np.linspace(-width / 2, width / 2, count) if count > 1 else np.zeros(count)


def annotate(figure: Figure, note: str) -> None:
    """Write a note on data and n below a figure."""
    engine = figure.get_layout_engine()
    if engine is not None:
        strip = 0.22 / figure.get_figheight()  # inches, for every height of the figure
        engine.set(rect=(0, strip, 1, 1 - strip))  # type: ignore[call-arg]  # typed as the base class, without settings
    figure.text(0.01, 0.05 / figure.get_figheight(), note, fontsize=7, color="#666666", ha="left", va="bottom")
