"""Figures of a quality report as PNG files in memory: pure readers of its numbers and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from balancer.metrics.features import random_subset
from balancer.metrics.memorization import PAIRS
from balancer.reporting.grids import side_by_side
from balancer.reporting.plots import BLUE, GREY, VERMILION, png, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
REAL, FAKE, OTHER = GREY, VERMILION, BLUE
SHOWN = 36


def of_quality(quality: dict[str, Any], train: Array, fake: Array) -> dict[str, bytes]:
    """The figures of what :func:`balancer.quality.assess.assess` found, by name."""
    drawn = {}
    if quality["memorization"] and quality["memorization"]["closest"]:
        drawn["closest"] = closest_pairs(quality["memorization"]["closest"], fake, train)
    if quality["spectrum"]:
        drawn["spectrum"] = spectrum(quality["spectrum"])
    return drawn


def beside(fake: Array, real: Array, titles: tuple[str, str], seed: int) -> bytes:
    """As many synthetic as real images, at most SHOWN, drawn at random."""
    n = min(SHOWN, len(fake), len(real))
    sides = zip(titles, (fake, real), ("fake", "real"), strict=True)
    return side_by_side(
        {title: images[random_subset(len(images), n, seed, "grid", side)] for title, images, side in sides}
    )


def closest_pairs(pairs: Sequence[Sequence[float]], fake: Array, train: Array) -> bytes:
    """Synthetic images above their nearest training images above the absolute difference, the closest pair first.

    Args:
        pairs: (position in ``fake``, position in ``train``, distance), the closest first; at most PAIRS are shown.
        fake, train: (n, H, W) uint8.
    """
    shown = [(int(i), int(j), float(d)) for i, j, d in pairs[:PAIRS]]
    figure, axes = subplots(3, max(len(shown), 4), 1.35 * max(len(shown), 4) + 0.5, 4.7)
    for panel in axes.flat:
        panel.axis("off")
    for column, (i, j, distance) in enumerate(shown):
        difference = np.abs(fake[i].astype(int) - train[j].astype(int))
        for row, image in enumerate((fake[i], train[j], difference)):
            place: Axes = axes[row, column]
            place.axis("on")
            place.set(xticks=[], yticks=[])
            place.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[0, column].set_title(f"pair {column + 1}", fontsize=8)
        axes[2, column].set_xlabel(f"distance {distance:.3f}", fontsize=8)
    for row, label in enumerate(("synthetic", "nearest\ntraining image", "absolute\ndifference")):
        axes[row, 0].set_ylabel(label, fontsize=9)
    return png(figure)


def spectrum(s: dict[str, Any]) -> bytes:
    """Radial power spectra in dB with the band of single real images, and the difference beside its floor."""
    frequency, real, fake, sd = (np.asarray(s[k]) for k in ("frequency", "real", "fake", "real_sd"))
    figure, ((left, right),) = subplots(1, 2, 9.6, 3.7)
    left.fill_between(frequency, real - 2 * sd, real + 2 * sd, color=REAL, alpha=0.15, linewidth=0)
    left.plot(frequency, real, color=REAL, label="real (band: ± 2 SD of single images)")
    left.plot(frequency, fake, color=FAKE, label="synthetic")
    left.set(xlabel="cycles per pixel", ylabel="power, dB", title="Radial power spectrum")
    left.legend(frameon=False, fontsize=8)
    right.axhspan(-s["rms_db_real_baseline"], s["rms_db_real_baseline"], color=REAL, alpha=0.15, linewidth=0)
    right.axhline(0, color=REAL, linewidth=0.8)
    right.plot(frequency, np.asarray(s["difference"]), color=FAKE)
    right.set(xlabel="cycles per pixel", ylabel="dB", title="Synthetic less real (band: rms of real less real)")
    for axes in (left, right):
        axes.set_xlim(0, max(0.5, float(frequency.max())))
        axes.grid(alpha=0.2)
    return png(figure)


def training(rows: Sequence[dict[str, Any]], used: int | None = None) -> bytes | None:
    """KID and Fréchet distance over training, with their floors; None where the run did not watch them.

    Args:
        rows: a GAN run's metrics; those with ``kid`` and ``frechet`` are shown.
        used: the step that the exported images come from.
    """
    watched = [r for r in rows if r.get("kid") is not None and r.get("frechet") is not None]
    if not watched:
        return None
    steps = [r["step"] for r in watched]
    figure, (panels,) = subplots(1, 2, 9.6, 3.5)
    for axes, key, title in zip(panels, ("kid", "frechet"), ("KID", "Fréchet distance"), strict=True):
        values = [r[key] for r in watched]
        axes.plot(steps, values, "o-", color=FAKE, markersize=3.5, label="synthetic")
        floors = [(r["step"], r[f"{key}_floor"]) for r in watched if r.get(f"{key}_floor") is not None]
        if floors:
            axes.plot(*zip(*floors, strict=True), color=REAL, linestyle="--", label="real against real (floor)")
        if used is not None:
            axes.axvline(used, color=OTHER, linewidth=1, linestyle=":", label="step used")
        axes.set(xlabel="step", title=f"{title} on the training fold")
        _cut(axes, steps, values)
        axes.grid(alpha=0.2)
    panels[0].legend(frameon=False, fontsize=8)
    return png(figure)


def _cut(axes: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    """From zero, or below it, to five medians: no spike flattens the rest, and where one is cut off its height is written."""
    top = min(1.08 * max(values), 5 * float(np.median(values)))
    if top <= 0:
        return
    axes.set_ylim(min(0, *values) - 0.05 * top, top)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for step, value in zip(steps, values, strict=True):
        if value > top:  # named on the side of the spike that has room
            side, offset = ("left", 4) if 2 * step < steps[0] + steps[-1] else ("right", -4)
            axes.annotate(
                f"↑ {value:.3g}",
                (step, top),
                (offset, -14),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                color=FAKE,
                bbox=box,
            )
