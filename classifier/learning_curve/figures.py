"""Figures of a learning curve: the endpoint, and the planned differences, against the number of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from balancer.reporting.plots import PALETTE, subplots
from classifier.analysis.analyse import endpoint_of
from classifier.analysis.verdicts import MARGIN
from classifier.learning_curve.comparison import Curve
from classifier.report.axes import COLOURS, MARGIN_BAND, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 3.3  # inches of a row
MARKERS = "os^D"  # part regimes that share colour and line
APART = 0.035  # of a size, by which the marks of regimes stand apart, so that no interval hides another


def endpoint(curve: Curve) -> Figure:
    """Draw the endpoint of every regime with its 95 % interval against the number of real images."""
    figure, axes = subplots(1, 1, WIDTH, 1.4 * HEIGHT)
    regimes = [r.regime for r in curve.sizes[0].analysis.regimes]
    marks = marks_of(regimes)
    for k, regime in enumerate(regimes):
        metrics = [size.analysis.metric(regime, "auroc") for size in curve.sizes]
        shown = [(s, m) for s, m in zip(curve.sizes, metrics, strict=True) if m is not None and m.interval is not None]
        if shown:
            places = [s.minority * (1 + APART * (k - len(regimes) / 2)) for s, _ in shown]
            means = [m.mean for _, m in shown]
            intervals = [m.interval for _, m in shown]
            _with_intervals(axes[0, 0], places, means, intervals, COLOURS[regime], regime, marks[regime])
    _style(axes[0, 0], curve)
    axes[0, 0].set_ylabel(f"test {endpoint_of(curve.sizes[0].analysis.classes)}")
    axes[0, 0].legend(frameon=False, fontsize=7.5, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure


def marks_of(regimes: Sequence[str]) -> dict[str, str]:
    """Return marker and line of each regime: dashed with augmentation, and no two alike in one colour."""
    used: dict[tuple[str, str], int] = {}
    marks = {}
    for regime in regimes:
        line = "--" if regime.endswith("_augment") else "-"
        before = used.get((COLOURS[regime], line), 0)
        used[COLOURS[regime], line] = before + 1
        marks[regime] = MARKERS[before % len(MARKERS)] + line
    return marks


def differences(curve: Curve) -> Figure:
    """Draw each planned difference with its 95 % interval against the number of real images, and the margin."""
    names = curve.contrast_names
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure, array = subplots(rows, columns, WIDTH, HEIGHT * rows)
    for unused in array.flat[len(names) :]:
        unused.axis("off")
    for axes, name in zip(array.flat, names, strict=False):
        results = [(size, c) for size in curve.sizes if (c := size.contrast(name)) is not None]
        axes.axhspan(-MARGIN, MARGIN, **MARGIN_BAND)
        axes.axhline(0, color="#888888", linewidth=0.7)
        estimates = [c.estimate for _, c in results]
        places = [float(size.minority) for size, _ in results]
        _with_intervals(
            axes, places, [e.value for e in estimates], [(e.low, e.high) for e in estimates], PALETTE[1], ""
        )
        axes.set_title(name, fontsize=9)
        axes.set_ylabel(f"difference in {endpoint_of(curve.sizes[0].analysis.classes)}", fontsize=8)
        _style(axes, curve)
    return figure


def _with_intervals(
    axes: Axes,
    places: list[float],
    means: list[float],
    intervals: list[tuple[float, float] | None],
    colour: str,
    label: str,
    marks: str = "o-",
) -> None:
    bounds = [i if i is not None else (m, m) for m, i in zip(means, intervals, strict=True)]
    # an interval need not hold the estimate where it is cut off at the ends of the scale
    below, above = (
        [max(0.0, side) for side in sides]
        for sides in (
            [m - low for m, (low, _) in zip(means, bounds, strict=True)],
            [high - m for m, (_, high) in zip(means, bounds, strict=True)],
        )
    )
    axes.errorbar(
        places,
        means,
        yerr=[below, above],
        fmt=marks,
        color=colour,
        label=label,
        markersize=4,
        linewidth=1.1,
        elinewidth=0.9,
        capsize=2,
    )


def _style(axes: Axes, curve: Curve) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    sizes = [size.minority for size in curve.sizes]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{n:,}" for n in sizes])
    axes.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    axes.set_xlabel("real images of the smallest class")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
