"""Figures of differences in test AUROC: the forest plot of all contrasts, and the response to the dose."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from balancer.reporting.numbers import bounds, p_value, signed
from balancer.reporting.plots import BLUE, GREY, VERMILION, subplots
from classifier.analysis.analyse import Analysis, endpoint_of
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.results import StudyResults
from classifier.analysis.verdicts import short_margin
from classifier.report.axes import COLOURS, MARGIN_BAND, fix_ticks, is_competitive, limits, mark_outside, spread
from classifier.report.tables import AUROC, FAMILIES, by_family
from classifier.training.regimes import REGIMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILY_COLOURS = {"confirmatory": BLUE, "factorial": VERMILION}  # other families are grey
TITLE_WIDTH = 44  # letters, where the title of a family breaks into a second line
COLUMNS = {"estimate [95 %]": 8, "p": 118, "verdict": 190}  # of text beside the forest, in points from its right edge


def forest(analysis: Analysis) -> Figure | None:
    """Draw every difference in the test endpoint with its 95 % interval, family by family; the band is the margin."""
    shown = [c for c in by_family(analysis) if c.contrast.family != "dose"]
    if not shown:
        return None
    lines: list[tuple[str, ContrastResult | None]] = []  # labels; the title of a family has no contrast
    for family in dict.fromkeys(c.contrast.family for c in shown):
        title = fill(FAMILIES[family], TITLE_WIDTH)
        lines += [(title, None), *((c.name, c) for c in shown if c.contrast.family == family)]
    figure, ((axes,),) = subplots(1, 1, 9.6, 0.25 * len(lines) + 1.1)
    margin = analysis.margin
    axes.set(xlim=_forest_limits(shown, margin), ylim=(len(lines) - 0.4, -0.6))
    axes.axvspan(-margin, margin, **MARGIN_BAND)
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [label for label, _ in lines], fontsize=8)
    for y, (tick, (_, c)) in enumerate(zip(axes.get_yticklabels(), lines, strict=True)):
        if c is None:
            tick.set_fontweight("bold")
        else:
            _forest_line(axes, c, y)
    for title, points in COLUMNS.items():
        _beside(axes, points, -1, title)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    fix_ticks(axes.xaxis, 7)
    axes.spines[["left", "right", "top"]].set_visible(False)
    words = f"above 0 the first named is better (band: ±{short_margin()}, too small to matter)"
    axes.set_xlabel(f"difference in test {endpoint_of(analysis.classes)}: {words}", fontsize=8)
    return figure


def _forest_limits(shown: Sequence[ContrastResult], margin: float) -> tuple[float, float]:
    """Return axis limits for the effects in question; lines of regimes that do far worse by design leave the axis."""
    in_question = [c for c in shown if c.contrast.left is None or is_competitive(c.contrast.left)]
    covered, everything = (
        [end for c in contrasts for end in (c.estimate.low, c.estimate.high)]
        for contrasts in (in_question or shown, shown)
    )
    return limits([*covered, -2 * margin, 2 * margin], everything, 4 * margin)


def _forest_line(axes: Axes, c: ContrastResult, y: int) -> None:
    (low, high), e = axes.get_xlim(), c.estimate
    colour = FAMILY_COLOURS.get(c.contrast.family, GREY)
    axes.plot(np.clip([e.low, e.high], low, high), [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
    mark_outside(axes, (e.low, e.high), (y, y), colour)
    if low <= e.value <= high:
        axes.plot(e.value, y, "s", color=colour, markersize=5 if c.contrast.is_confirmatory else 4)
    p = p_value(c.p) if c.p_holm is None else f"{p_value(c.p_holm)} (Holm)"
    texts = (f"{signed(e.value)} {bounds(e.low, e.high)}", p, c.verdict)
    for points, text in zip(COLUMNS.values(), texts, strict=True):
        _beside(axes, points, y, text)


def _beside(axes: Axes, points: float, y: int, text: str) -> None:
    """Write text to the right of the axes, level with a line; line -1 is above the first."""
    axes.annotate(
        text,
        (1, y),
        (points, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )


def dose_response(results: StudyResults, analysis: Analysis) -> Figure | None:
    """Draw test AUROC against the dose in deficits, and its difference from the regime without synthetic images."""
    regimes = [name for name in REGIMES if any(t.regime == name and not t.is_main for t in results.trials)]
    if not regimes:
        return None
    doses = sorted({t.dose for t in results.trials if t.regime in regimes and t.dose is not None})
    figure, ((left, right),) = subplots(1, 2, 8.6, 3.9)
    right.axhspan(-analysis.margin, analysis.margin, **MARGIN_BAND)
    right.axhline(0, color="#555555", linewidth=0.8)
    for name, shift in zip(regimes, spread(len(regimes), 0.02 * doses[-1]), strict=True):
        _dose_trials(left, results, name, doses, shift)
        _reference_band(left, results, name, analysis.margin)
        _dose_differences(right, analysis, name, doses, shift)
    endpoint = endpoint_of(results.classes)
    left.set_ylabel(f"test {endpoint}", fontsize=8)
    right.set_ylabel(f"difference in test {endpoint}, 95 % interval", fontsize=8)
    right.set_xlim(left.get_xlim())
    for axes in (left, right):
        axes.set_xlabel("synthetic images / deficit (0: none)", fontsize=8)
        axes.tick_params(labelsize=8)
        fix_ticks(axes.xaxis, 7)
        fix_ticks(axes.yaxis, 7)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _reference_band(axes: Axes, results: StudyResults, regime: str, margin: float) -> None:
    """Draw the margin around the mean test AUROC of the regime without synthetic images."""
    values = [trial.metric(AUROC) for trial in results.arms.get(REGIMES[regime].reference, [])]
    if values:
        mean = float(np.mean(values))
        axes.axhspan(mean - margin, mean + margin, **MARGIN_BAND)


def _dose_trials(axes: Axes, results: StudyResults, regime: str, doses: Sequence[float], shift: float) -> None:
    trials = {0.0: results.arms.get(REGIMES[regime].reference, [])}
    trials |= {dose: [t for t in results.trials if (t.regime, t.dose) == (regime, dose)] for dose in doses}
    aurocs = {dose: [t.metric(AUROC) for t in of_dose] for dose, of_dose in trials.items() if of_dose}
    for dose, values in aurocs.items():
        axes.scatter([dose + shift] * len(values), values, s=9, color=COLOURS[regime], alpha=0.45)
    means = [np.mean(values) for values in aurocs.values()]
    x = [dose + shift for dose in aurocs]
    axes.plot(x, means, label=regime, color=COLOURS[regime], marker="o", markersize=4)


def _dose_differences(axes: Axes, analysis: Analysis, regime: str, doses: Sequence[float], shift: float) -> None:
    """Draw the differences of a regime from its reference; the deficit itself is a contrast of the study proper."""
    reference, colour = REGIMES[regime].reference, COLOURS[regime]
    names = {dose: f"{regime}{'' if dose == 1.0 else f'@{dose:g}'} - {reference}" for dose in doses}
    by_name = {c.name: c.estimate for c in analysis.contrasts}
    estimates = {dose: by_name[name] for dose, name in names.items() if name in by_name}
    for dose, e in estimates.items():
        axes.plot([dose + shift] * 2, [e.low, e.high], color=colour, linewidth=1.3)
    x, y = [dose + shift for dose in estimates], [e.value for e in estimates.values()]
    axes.plot(x, y, label=f"{regime} - {reference}", color=colour, linewidth=1, marker="o", markersize=4)
