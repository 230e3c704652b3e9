"""The shortcut meter in a report: its section, its table, its columns of table.csv and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from balancer.metrics.traces import TRACES
from balancer.reporting.document import Table
from balancer.reporting.numbers import DASH, listed, plural, short, signed
from balancer.reporting.plots import GREY
from classifier.analysis.shortcuts import MeterResult, difference_in_words, in_words
from classifier.evaluation.shortcut import Share
from classifier.report.axes import COLOURS, fix_ticks, rows_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "meter"  # of the figure
TITLE = "Does the classifier read being synthetic?"
ALT = "Shares of pairs by regime: images with the trace of the synthetic images, and features of synthetic images"
CAPTION = (
    "Left: of a real image with the trace of the synthetic images and one without, how often the first scores higher "
    "for their class. Right: how often the classifier's features rank a synthetic image of the class above a held-out "
    "real one. Filled: synthetic. Hollow: real against real. One half is nothing, one is always. Lines are 95 % "
    "intervals. A shortcut lies to the right of every regime without synthetic images as well."
)


def text_and_table(results: Sequence[MeterResult]) -> tuple[list[str], Table | None]:
    """Return what was done, and a row for each regime and class; nothing for a study without the meter."""
    return (method(results), table(results)) if results else ([], None)


def method(results: Sequence[MeterResult]) -> list[str]:
    """Return what was done; one result or more."""
    names = listed([f"the {TRACES[trace.trace].words}" for trace in results[0].traces])
    classes = " or ".join(dict.fromkeys(result.class_name for result in results))
    text = (
        f"Real validation images of the other classes are given the trace of the synthetic set: {names}. A classifier "
        f"that takes being synthetic for {classes} then scores them higher for that class. What a regime without "
        "synthetic images shows is no shortcut: its classifiers never saw the trace. So a regime is said to read being "
        "synthetic only beyond every such regime with the same augmentation, and beyond the same trace of real images "
        "against real images. No test image is used. Method: `docs/statistics.md`."
    )
    halvings = min(result.halvings for result in results)
    chance = (
        "A trace is fitted to few images, and chance gives it a direction of its own. The intervals of both differences"
        f" hold that chance, by {plural(halvings, 'halving')} of the real images"
        f"{': with so few they are wide' if halvings < 2 else ''}. They are not adjusted for the number of regimes,"
        " classes, traces and sizes."
    )
    seen = (
        "Where classifiers were trained on the synthetic images that are compared, the control is of real images that "
        "they were trained on: a training sets its own images apart."
    )
    return [text, chance, *([seen] if any(result.trained_on for result in results) else [])]


def sentences(results: Sequence[MeterResult]) -> list[str]:
    """Return what is said of each regime with synthetic images, and each class."""
    return [result.sentence for result in results if result.is_synthetic]


def table(results: Sequence[MeterResult]) -> Table:
    """Return a row for each regime and class."""
    names = ["regime", *(["class"] if _has_several_classes(results) else [])]
    header = [*names]
    for trace in results[0].traces:
        header += [TRACES[trace.trace].words, "real against real", "beyond regimes without", "shift, logits"]
    header += ["features", "real against real", "read?"]
    return Table(header, [_row(result, len(names)) for result in results], numeric=len(names), words=True)


def _row(result: MeterResult, names: int) -> list[str]:
    """Return the cells of a row, of which so many are names."""
    cells = [result.regime, result.class_name][:names]
    for trace in result.traces:
        beyond = trace.beyond_reference
        cells += [_cell(trace.traced), short(trace.control.value, 2)]
        cells += [DASH if beyond is None else _two_lines(difference_in_words(beyond)), signed(trace.shift, 1)]
    return [*cells, _cell(result.features), _cell(result.features_control), result.verdict]


def _has_several_classes(results: Sequence[MeterResult]) -> bool:
    return len({result.class_name for result in results}) > 1


def _cell(share: Share | None) -> str:
    return DASH if share is None else _two_lines(in_words(share))


def _two_lines(text: str) -> str:
    """Return a figure with its interval below it."""
    return text.replace(" [", "\n[")


def meter_columns(results: Sequence[MeterResult], regime: str) -> dict[str, float | None]:
    """Return the columns of table.csv that a regime's results fill, by name; empty cells where it has none."""
    columns: dict[str, float | None] = {}
    for class_name in dict.fromkeys(result.class_name for result in results):
        result = next((r for r in results if (r.regime, r.class_name) == (regime, class_name)), None)
        for t, name in enumerate(trace.trace for trace in results[0].traces):
            trace, prefix = result and result.traces[t], f"meter_{class_name}_{name}"
            for key in ("traced", "control", "beyond_control", "beyond_reference"):
                columns |= _parts(f"{prefix}_{key}", getattr(trace, key, None))
            columns[f"{prefix}_shift"] = trace.shift if trace else None
        for key in ("features", "features_control"):
            columns |= _parts(f"meter_{class_name}_{key}", getattr(result, key, None))
    return columns


def _parts(name: str, share: Share | None) -> dict[str, float | None]:
    return {f"{name}_{part}": getattr(share, part, None) for part in ("value", "low", "high")}


def draw(results: Sequence[MeterResult]) -> Figure | None:
    """Draw the shares of every regime and class beside their controls; None for a study without the meter."""
    if not results:
        return None
    several = _has_several_classes(results)
    names = [f"{result.regime}: {result.class_name}" if several else result.regime for result in results]
    figure, columns = rows_axes(names, columns=len(results[0].traces) + 1)
    titles = [f"with the {TRACES[trace.trace].words}" for trace in results[0].traces]
    for y, result in enumerate(results):
        pairs = [(trace.traced, trace.control) for trace in result.traces]
        for axes, (share, control) in zip(columns, [*pairs, (result.features, result.features_control)], strict=True):
            _pair(axes, y, share, control, COLOURS[result.regime])
    for axes, title in zip(columns, [*titles, "by the features"], strict=True):
        axes.axvline(0.5, color="#555555", linewidth=0.8, zorder=0)
        axes.set_xlim(-0.03, 1.03)
        fix_ticks(axes.xaxis, 5)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("share of pairs, validation", fontsize=8)
    return figure


def _pair(axes: Axes, y: float, share: Share | None, control: Share | None, colour: str) -> None:
    """Draw a share, and its control a little below; nothing where they were not measured."""
    for of, height, face, edge in ((control, y + 0.2, "white", GREY), (share, y - 0.1, colour, colour)):
        if of is not None:
            axes.plot([of.low, of.high], [height, height], color=edge, linewidth=1.4, solid_capstyle="butt")
            axes.plot(of.value, height, "o", color=edge, markerfacecolor=face, markersize=4.5, zorder=3)
