"""Figures of an ablation: pure readers of ``results.jsonl`` and of the trials' predictions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.metrics import roc_curve

from balancer.data.folder import CLASSES
from balancer.plots import PALETTE, png, subplots
from balancer.run import atomic_file
from classifier.regimes import REGIMES
from classifier.tables import mean_sd, regimes_in, values

Row = dict[str, Any]
COLOURS = dict(zip(REGIMES, itertools.cycle(PALETTE), strict=False))


def draw_all(rows: list[Row], run: Path, note: str) -> list[Path]:
    """Write every figure into ``figures/``; ``note`` goes below each (data, n)."""
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    figures = {"roc": roc(rows, run), "confusion": confusion(rows), "training": training(rows), "seeds": seeds(rows)}
    paths = []
    for name, figure in figures.items():
        figure.text(0.01, 0.005, note, fontsize=7, color="#666666", ha="left", va="bottom")
        paths.append(folder / f"{name}.png")
        with atomic_file(paths[-1]) as handle:
            handle.write(png(figure, dpi=150))
    return paths


def roc(rows: list[Row], run: Path) -> Figure:
    """Test ROC: a thin line per trial seed, a thick one for their mean (sensitivity averaged at equal specificity)."""
    figure, ((axes,),) = subplots(1, 1, 6.2, 5.8)
    grid = np.linspace(0, 1, 501)
    for regime in regimes_in(rows):
        curves = []
        for row in (r for r in rows if r["regime"] == regime):
            with np.load(run / row["folder"] / "predictions.npz") as saved:
                fpr, tpr, _ = roc_curve(saved["test_true"], saved["test_score"])
            axes.plot(fpr, tpr, color=COLOURS[regime], linewidth=0.6, alpha=0.35)
            curves.append(np.interp(grid, fpr, tpr))
        mean, sd = mean_sd(list(values(rows, regime, ("test", "auroc")).values()))
        label = f"{regime}: AUROC {mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}")
        # From the origin: at specificity 1 the interpolation takes the top of each curve's first, vertical piece.
        axes.plot([0, *grid], [0, *np.mean(curves, axis=0)], color=COLOURS[regime], linewidth=2, label=label)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC on test, {_spread(rows)}", aspect="equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right", frameon=False)
    _leave_room(figure)
    return figure


def confusion(rows: list[Row]) -> Figure:
    """Test confusion matrices at 0.5 and at validation's threshold, counts averaged over trial seeds."""
    names = regimes_in(rows)
    figure, grid = subplots(2, len(names), max(2.6 * len(names), 5), 5.6)
    for column, regime in enumerate(names):
        mine = [r["test"] for r in rows if r["regime"] == regime]
        for axes, at, title in zip(
            grid[:, column], ("at_half", "at_threshold"), ("threshold 0.5", "validation's threshold"), strict=True
        ):
            counts = np.mean([r[at]["confusion"] for r in mine], axis=0).reshape(2, 2)
            share = counts / counts.sum(axis=1, keepdims=True)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (i, j), value in np.ndenumerate(counts):
                colour = "white" if share[i, j] > 0.6 else "black"
                axes.text(
                    j,
                    i,
                    f"{value:.1f}".removesuffix(".0") + f"\n({share[i, j]:.0%})",
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=9,
                )
            axes.set_xticks([0, 1], CLASSES, fontsize=7)
            axes.set_yticks([0, 1], CLASSES, fontsize=7, rotation=90, va="center")
            axes.set_title(f"{regime}\n{title}", fontsize=9)
            axes.set_xlabel("predicted", fontsize=8)
            axes.set_ylabel("true" if column == 0 else "", fontsize=8)
    figure.suptitle(f"Test images, {_spread(rows, sd=False)} (share of the true class)", fontsize=10)
    _leave_room(figure)
    return figure


def training(rows: list[Row]) -> Figure:
    """Training loss and validation NLL against steps, a line per trial; a dot marks the selected step."""
    figure, (panels,) = subplots(1, 2, 9.6, 4.2)
    for axes, key, title in zip(
        panels, ("train_loss", "val_nll"), ("training loss", "validation NLL (dot: the step kept)"), strict=True
    ):
        for regime in regimes_in(rows):
            for k, row in enumerate(r for r in rows if r["regime"] == regime):
                steps, losses = [h["step"] for h in row["history"]], [h[key] for h in row["history"]]
                axes.plot(
                    steps, losses, color=COLOURS[regime], linewidth=1, alpha=0.7, label=regime if k == 0 else None
                )
                if key == "val_nll":
                    chosen = steps.index(row["selected_step"])
                    axes.plot(steps[chosen], losses[chosen], "o", color=COLOURS[regime], markersize=4)
        axes.set(xlabel="optimiser step", ylabel="nats", title=title, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))  # 0.2, 0.3, not 2 × 10⁻¹, 3 × 10⁻¹
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.2, which="both")
    panels[0].legend(frameon=False)
    _leave_room(figure)
    return figure


def seeds(rows: list[Row]) -> Figure:
    """Test AUROC of every trial; a thin line joins the trials of one seed, which are pairs."""
    names = regimes_in(rows)
    figure, ((axes,),) = subplots(1, 1, max(1.3 * len(names), 4.5), 4.4)
    columns = [values(rows, name, ("test", "auroc")) for name in names]
    for seed in sorted(set().union(*columns)):
        line = [c.get(seed, np.nan) for c in columns]
        axes.plot(range(len(names)), line, color="#bbbbbb", linewidth=0.8, zorder=1)
    for x, (name, column) in enumerate(zip(names, columns, strict=True)):
        axes.scatter([x] * len(column), list(column.values()), color=COLOURS[name], zorder=2)
        axes.plot([x - 0.18, x + 0.18], [np.mean(list(column.values()))] * 2, color=COLOURS[name], linewidth=2.5)
    axes.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names])
    axes.set(ylabel="test AUROC", title="Every trial; lines join trials of one seed", xlim=(-0.5, len(names) - 0.5))
    axes.grid(alpha=0.2, axis="y")
    _leave_room(figure)
    return figure


def _spread(rows: list[Row], sd: bool = True) -> str:
    """What is shown of the trial seeds."""
    if len({r["trial_seed"] for r in rows}) == 1:
        return "one trial seed"
    return f"mean{' ± SD' if sd else ''} over trial seeds"


def _leave_room(figure: Figure) -> None:
    """Keep a strip at the bottom free for the note."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0.04, 1, 0.96))  # type: ignore[call-arg]
