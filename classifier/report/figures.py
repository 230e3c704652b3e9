"""Figures of an ablation: pure readers of its rows, its analysis and its trials' predictions."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.reporting.numbers import short, signed
from balancer.reporting.plots import subplots
from classifier.analysis.results import Predictions, lookup, main_rows, regimes_in, sets_of, values
from classifier.report import axes as panels
from classifier.report import curves, effects, tables
from classifier.report.axes import COLOURS, SET_MARKERS
from classifier.report.failures import Failures, contact_sheet
from classifier.report.tables import AUROC, Analysis, Row


def draw_all(
    rows: list[Row], analysis: Analysis, predictions: dict[str, Predictions], data: Dataset, failures: Failures
) -> dict[str, Figure]:
    """Every figure that these rows have something to say for, by name, each with data and n below it."""
    main = main_rows(rows)
    groups = [data.groups[i] for i in next(iter(predictions.values())).index]
    made = {
        "forest": effects.forest(analysis),
        "seeds": seeds(main, analysis),
        "dose": effects.dose_response(rows, analysis),
        "roc": curves.roc(main, predictions, groups),
        "precision_recall": curves.precision_recall(main, predictions, groups),
        "gap": validation_gap(main),
        "thresholds": curves.threshold_transfer(main, predictions),
        "reliability": curves.reliability(main, predictions),
        "confusion": confusion(main),
        "failures": contact_sheet(failures, data),
        "training": training(main),
    }
    drawn = {name: figure for name, figure in made.items() if figure is not None}
    for figure in drawn.values():
        panels.annotate(figure, f"{data_name(data)}; {tables.counts(analysis)}")
    return drawn


def data_name(data: Dataset) -> str:
    """What the images are, for the foot of a figure."""
    return "phantom: drawings, not X-rays" if data.is_phantom else data.source.rstrip("/").rsplit("/", 1)[-1]


def seeds(rows: list[Row], analysis: Analysis) -> Figure:
    """Test AUROC of every trial, marker by synthetic set, over the mean and its interval; lines join the trials of a seed."""
    names = regimes_in(rows)
    figure, (axes,) = panels.rows_axes(names)
    columns = {name: values(rows, name, AUROC) for name in names}
    every = [lookup(r, AUROC) for r in rows]
    kept = [lookup(r, AUROC) for r in rows if r["regime"] in panels.core(names)]
    kept += [end for name in panels.core(names) for end in tables.interval(analysis, name, "auroc") or ()]
    axes.set_xlim(panels.limits(kept, every, 0.02))
    for seed in sorted(set().union(*columns.values())):
        line = np.array([columns[name].get(seed, np.nan) for name in names])
        line[(line < axes.get_xlim()[0]) | (line > axes.get_xlim()[1])] = np.nan
        axes.plot(line, range(len(names)), color="#c8c8c8", linewidth=0.7, zorder=1)
    sets = sorted({s for name in names for s in sets_of(rows, name)}, key=lambda s: (len(s), s))
    for y, name in enumerate(names):
        _seed_line(axes, y, [r for r in rows if r["regime"] == name], sets)
        if found := tables.interval(analysis, name, "auroc"):
            axes.plot(found, [y, y], color=COLOURS[name], linewidth=7, alpha=0.22, solid_capstyle="butt", zorder=1.5)
        mean = float(np.mean(list(columns[name].values())))
        axes.plot([mean, mean], [y - 0.32, y + 0.32], color=COLOURS[name], linewidth=2.2, zorder=2)
        if mean < axes.get_xlim()[0]:
            axes.text(
                0.02,
                y + 0.3,
                f"mean {short(mean)}",
                transform=axes.get_yaxis_transform(),
                fontsize=7,
                va="center",
            )
    if len(sets) > 1:
        marks = [
            Line2D([], [], marker=SET_MARKERS[i], color="#555555", linestyle="", markersize=5) for i in range(len(sets))
        ]
        axes.legend(
            marks,
            [f"synthetic set {s}" for s in sets],
            fontsize=7,
            frameon=False,
            loc="lower center",
            ncols=len(sets),
            bbox_to_anchor=(0.5, 1.0),
        )
    panels.fix_ticks(axes.xaxis, 7)
    axes.set_xlabel(
        "test AUROC" + (" (a line joins the trials of one seed)" if len(every) > len(names) else ""), fontsize=8
    )
    return figure


def _seed_line(axes: Axes, y: int, mine: list[Row], sets: list[str]) -> None:
    """The trials of one regime; what lies off the axis is an arrow at its edge."""
    low, high = axes.get_xlim()
    present: list[str | None] = [s for s in sets if any(r.get("synthetic_set") == s for r in mine)] or [None]
    for name, offset in zip(present, panels.spread(len(present), 0.36), strict=True):
        found = [lookup(r, AUROC) for r in mine if r.get("synthetic_set") == name]
        marker = SET_MARKERS[sets.index(name) % len(SET_MARKERS)] if name is not None else "o"
        colour = COLOURS[mine[0]["regime"]]
        inside = [v for v in found if low <= v <= high]
        axes.scatter(
            inside,
            [y + offset] * len(inside),
            color=colour,
            marker=marker,
            s=22,
            edgecolor="white",
            linewidth=0.5,
            zorder=3,
        )
        panels.mark_outside(axes, found, [y + offset] * len(found), colour)


def validation_gap(rows: list[Row]) -> Figure:
    """What validation promised (hollow) and what test gave (filled), trial by trial."""
    names = regimes_in(rows)
    figure, (left, right) = panels.rows_axes(names, columns=2)
    for axes, path, title in (
        (left, ("auroc",), "AUROC"),
        (right, ("at_threshold", "balanced_accuracy"), "balanced accuracy, threshold of validation"),
    ):
        pairs = {
            n: [tuple(lookup(r, (f, *path)) for f in ("val", "test")) for r in rows if r["regime"] == n] for n in names
        }
        every = [v for of_regime in pairs.values() for pair in of_regime for v in pair]
        axes.set_xlim(panels.limits([v for n in panels.core(names) for pair in pairs[n] for v in pair], every, 0.02))
        for y, name in enumerate(names):
            colour = COLOURS[name]
            for offset, (val, test) in zip(panels.spread(len(pairs[name]), 0.5), pairs[name], strict=True):
                axes.plot([val, test], [y + offset] * 2, color=colour, linewidth=0.8, alpha=0.6)
                axes.plot(val, y + offset, "o", color=colour, markerfacecolor="white", markersize=4, zorder=3)
                axes.plot(test, y + offset, "o", color=colour, markersize=4, zorder=3)
                panels.mark_outside(axes, [test], [y + offset], colour)
            gap = float(np.mean([test - val for val, test in pairs[name]]))
            axes.text(1.02, y, signed(gap), transform=axes.get_yaxis_transform(), fontsize=7.5, va="center")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("validation ○   test ●   at the right: mean change", fontsize=8)
        panels.fix_ticks(axes.xaxis, 5)
    return figure


def confusion(rows: list[Row]) -> Figure:
    """Test confusion matrices at 0.5 and at validation's threshold, counts averaged over trials."""
    names = regimes_in(rows)
    columns = min(len(names), 4)
    lines = -(-len(names) // columns)
    figure, grid = subplots(2 * lines, columns, max(2.3 * columns, 5), 4.9 * lines + 0.5)
    for unused in grid.flat:
        unused.axis("off")
    for i, regime in enumerate(names):
        mine = [r["test"] for r in rows if r["regime"] == regime]
        for line, (at, title) in enumerate((("at_half", "threshold .5"), ("at_threshold", "validation's threshold"))):
            axes = grid[2 * (i // columns) + line, i % columns]
            axes.axis("on")
            axes.set_title(f"{regime}\n{title}", fontsize=8)
            axes.set_ylabel("true" if i % columns == 0 else "", fontsize=8)
            _matrix(axes, np.mean([r[at]["confusion"] for r in mine], axis=0).reshape(2, 2))
    return figure


def _matrix(axes: Axes, counts: np.ndarray) -> None:
    """Counts (true, predicted) over their share of the true class."""
    share = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(counts):
        text = f"{value:.1f}".removesuffix(".0") + f"\n({share[i, j]:.0%})"
        colour = "white" if share[i, j] > 0.6 else "black"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks([0, 1], CLASSES, fontsize=7)
    axes.set_yticks([0, 1], CLASSES, fontsize=7, rotation=90, va="center")
    axes.set_xlabel("predicted", fontsize=8)


def training(rows: list[Row]) -> Figure:
    """Training loss (grey) and validation NLL against steps, a line per trial; a dot marks the step kept."""
    names = regimes_in(rows)
    figure, shown = panels.grid(names, 2.3)
    drawn = [h[key] for r in rows for h in r["history"] for key in ("train_loss", "val_nll")]
    for name, panel in shown.items():
        for row in (r for r in rows if r["regime"] == name):
            steps = [h["step"] for h in row["history"]]
            panel.plot(steps, [h["train_loss"] for h in row["history"]], color="#999999", linewidth=0.8)
            losses = [h["val_nll"] for h in row["history"]]
            panel.plot(steps, losses, color=COLOURS[name], linewidth=0.9, alpha=0.8)
            chosen = steps.index(row["selected_step"])
            panel.plot(steps[chosen], losses[chosen], "o", color=COLOURS[name], markersize=3.5)
        panel.set_yscale("log")
        panel.set_ylim(0.9 * min(drawn), 1.1 * max(drawn))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=9))  # 0.2, 0.3, not 2 × 10⁻¹, 3 × 10⁻¹
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
        panels.fix_ticks(panel.xaxis, 4)
    panels.outer_labels(shown, "optimiser step", "training loss (grey),\nvalidation NLL")
    return figure
