"""Figures of a simulated federation: every way of training at each site, and the planned differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.reporting.plots import PALETTE, subplots
from classifier.analysis.verdicts import MARGIN
from classifier.federation.comparison import Comparison
from classifier.report.axes import MARGIN_BAND, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.42  # inches of a line
APART = 0.16  # of a line, between the marks of two sites


def by_site(comparison: Comparison) -> Figure:
    """Draw the endpoint of every way of training, with its interval, and the mean over trial seeds at each site."""
    arms = [arm for arm in comparison.arms if arm.metrics]  # others have lost a site in every trial seed
    names = [arm.arm for arm in arms]
    figure, ((axes,),) = subplots(1, 1, WIDTH, ROW * len(names) + 1.6)
    for row, arm in enumerate(arms):
        endpoint = arm.metrics["auroc"]
        low, high = endpoint.interval or (endpoint.mean, endpoint.mean)
        below, above = max(0.0, endpoint.mean - low), max(0.0, high - endpoint.mean)
        axes.errorbar(endpoint.mean, row, xerr=[[below], [above]], fmt="o", color=PALETTE[0], markersize=5, capsize=2.5)
        for site, summary in arm.by_site.items():
            place = row + APART * (site + 1)
            colour = PALETTE[1 + site % (len(PALETTE) - 1)]
            axes.plot(summary.mean, place, "D", color=colour, markersize=4, label=f"site {site}")
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(shown.values(), shown.keys(), frameon=False, fontsize=7.5, loc="best")
    _style(axes, names, f"test {comparison.endpoint}")
    return figure


def differences(comparison: Comparison) -> Figure:
    """Draw each difference with its 95 % interval, and the margin below which a difference is of no use."""
    figure, ((axes,),) = subplots(1, 1, WIDTH, ROW * len(comparison.contrasts) + 1.3)
    axes.axvspan(-MARGIN, MARGIN, **MARGIN_BAND)
    axes.axvline(0, color="#888888", linewidth=0.7)
    for row, c in enumerate(comparison.contrasts):
        e = c.estimate
        colour = PALETTE[1] if c.contrast.is_adjusted else PALETTE[0]
        below, above = max(0.0, e.value - e.low), max(0.0, e.high - e.value)
        axes.errorbar(e.value, row, xerr=[[below], [above]], fmt="o", color=colour, markersize=5, capsize=2.5)
    _style(axes, [c.name for c in comparison.contrasts], f"difference in test {comparison.endpoint}")
    return figure


def _style(axes: Axes, names: list[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
