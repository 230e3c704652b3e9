"""Figures of differences in test AUROC: the forest of all contrasts, and the response to the dose of synthetic images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from balancer.reporting.numbers import bounds, p_value, signed
from balancer.reporting.plots import BLUE, GREY, VERMILION, subplots
from classifier.analysis.results import lookup, main_rows, regimes_in
from classifier.analysis.verdicts import short_margin
from classifier.report import axes as panels
from classifier.report import tables
from classifier.report.axes import COLOURS, MARGIN_BAND
from classifier.report.tables import AUROC, Analysis, Row
from classifier.training.regimes import REGIMES

FAMILY_COLOURS = {"confirmatory": BLUE, "factorial": VERMILION}  # the rest in grey
COLUMNS = {"estimate [95 %]": 8, "p": 118, "verdict": 190}  # of text beside the forest, in points from its right edge


def forest(analysis: Analysis) -> Figure | None:
    """Every difference in test AUROC with its 95 % interval, family by family; the band is the margin."""
    shown = [c for c in tables.by_family(analysis) if c["family"] != "dose"]
    if not shown:
        return None
    labels, contrasts = [], []  # line by line; a family's title has no contrast
    for family in dict.fromkeys(c["family"] for c in shown):
        of_family = [c for c in shown if c["family"] == family]
        labels += [tables.FAMILIES[family], *(c["name"] for c in of_family)]
        contrasts += [None, *of_family]
    figure, ((axes,),) = subplots(1, 1, 9.6, 0.25 * len(labels) + 1.1)
    margin = analysis["margin"]
    axes.set(xlim=_forest_limits(shown, margin), ylim=(len(labels) - 0.4, -0.6))
    axes.axvspan(-margin, margin, **MARGIN_BAND)
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for y, (tick, c) in enumerate(zip(axes.get_yticklabels(), contrasts, strict=True)):
        if c is None:
            tick.set_fontweight("bold")
        else:
            _forest_line(axes, c, y)
    for title, points in COLUMNS.items():
        _beside(axes, points, -1, title)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    panels.fix_ticks(axes.xaxis, 7)
    axes.spines[["left", "right", "top"]].set_visible(False)
    words = f"above 0 the first named is better (band: ±{short_margin()}, too small to matter)"
    axes.set_xlabel(f"difference in test AUROC: {words}", fontsize=8)
    return figure


def _forest_limits(shown: Sequence[dict[str, Any]], margin: float) -> tuple[float, float]:
    """An axis for the effects in question; of regimes that do far worse by design the lines leave it."""
    in_question = [c for c in shown if c["left"] is None or panels.tries_to_be_good(c["left"])]
    kept = [v for c in in_question or shown for v in (c["low"], c["high"])]
    return panels.limits(
        [*kept, -2 * margin, 2 * margin], [v for c in shown for v in (c["low"], c["high"])], 4 * margin
    )


def _forest_line(axes: Axes, c: dict[str, Any], y: int) -> None:
    low, high = axes.get_xlim()
    colour = FAMILY_COLOURS.get(c["family"], GREY)
    axes.plot(np.clip([c["low"], c["high"]], low, high), [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
    panels.mark_outside(axes, (c["low"], c["high"]), (y, y), colour)
    if low <= c["estimate"] <= high:
        axes.plot(c["estimate"], y, "s", color=colour, markersize=5 if c["family"] == "confirmatory" else 4)
    p = p_value(c["p"]) if c["p_holm"] is None else f"{p_value(c['p_holm'])} (Holm)"
    texts = (f"{signed(c['estimate'])} {bounds(c['low'], c['high'])}", p, c["verdict"])
    for points, text in zip(COLUMNS.values(), texts, strict=True):
        _beside(axes, points, y, text)


def _beside(axes: Axes, points: float, y: int, text: str) -> None:
    """Text to the right of the axes, level with a line; line -1 is above the first."""
    place = ("axes fraction", "data")
    axes.annotate(
        text,
        (1, y),
        (points, 0),
        xycoords=place,
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )


def dose_response(rows: list[Row], analysis: Analysis) -> Figure | None:
    """Test AUROC against the number of synthetic images in deficits, and its difference from the regime without any."""
    names = regimes_in(r for r in rows if r.get("dose") not in (None, 1.0))
    if not names:
        return None
    doses = sorted({r["dose"] for r in rows if r["regime"] in names and r["dose"] is not None})
    figure, ((left, right),) = subplots(1, 2, 8.6, 3.9)
    right.axhspan(-analysis["margin"], analysis["margin"], **MARGIN_BAND)
    right.axhline(0, color="#555555", linewidth=0.8)
    for name, shift in zip(names, panels.spread(len(names), 0.02 * doses[-1]), strict=True):
        reference, look = REGIMES[name].reference, {"color": COLOURS[name], "marker": "o", "markersize": 4}
        points = {0.0: [r for r in main_rows(rows) if r["regime"] == reference]}
        points |= {d: [r for r in rows if (r["regime"], r["dose"]) == (name, d)] for d in doses}
        points = {dose: found for dose, found in points.items() if found}
        means = []
        for dose, found in points.items():
            every = [lookup(r, AUROC) for r in found]
            left.scatter([dose + shift] * len(every), every, s=9, color=COLOURS[name], alpha=0.45)
            means.append(np.mean(every))
        left.plot([d + shift for d in points], means, label=name, **look)
        differences = {d: c for d in doses if (c := _dose_contrast(analysis, name, d))}
        for dose, c in differences.items():
            right.plot([dose + shift] * 2, [c["low"], c["high"]], color=COLOURS[name], linewidth=1.3)
        estimates = [c["estimate"] for c in differences.values()]
        right.plot([d + shift for d in differences], estimates, label=f"{name} - {reference}", linewidth=1, **look)
    left.set_ylabel("test AUROC", fontsize=8)
    right.set_ylabel("difference in test AUROC, 95 % interval", fontsize=8)
    right.set_xlim(left.get_xlim())
    for axes in (left, right):
        axes.set_xlabel("synthetic images / deficit (0: none)", fontsize=8)
        axes.tick_params(labelsize=8)
        panels.fix_ticks(axes.xaxis, 7)
        panels.fix_ticks(axes.yaxis, 7)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _dose_contrast(analysis: Analysis, regime: str, dose: float) -> dict[str, Any] | None:
    """The difference of a regime at a dose from its reference; at the deficit itself it is one of the study proper."""
    for c in analysis["contrasts"]:
        if (
            str(c["left"]).split("@")[0] == regime
            and c["right"] == REGIMES[regime].reference
            and (c["dose"] or 1.0) == dose
        ):
            return dict(c)
    return None
