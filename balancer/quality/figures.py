"""Figures of a quality report as PNG files in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from balancer.metrics.features import random_subset
from balancer.metrics.memorization import PAIRS, ClosePair
from balancer.metrics.spectrum import Spectrum
from balancer.quality.results import QualityReport
from balancer.reporting.grids import side_by_side
from balancer.reporting.numbers import fixed
from balancer.reporting.plots import BLUE, GREY, VERMILION, ImagePair, pair_figure, png, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
REAL, FAKE, OTHER = GREY, VERMILION, BLUE
SHOWN = 36


def of_quality(quality: QualityReport, train: Array, fake: Array) -> dict[str, bytes]:
    """Return the figures of a quality report by name; images are (n, H, W) or (n, H, W, 3) uint8."""
    drawn = {}
    if quality.memorization and quality.memorization.closest:
        drawn["closest"] = closest_pairs(quality.memorization.closest, fake, train)
    if quality.spectrum:
        drawn["spectrum"] = spectrum(quality.spectrum)
    return drawn


def beside(fake: Array, real: Array, titles: tuple[str, str], seed: int) -> bytes:
    """Return as many synthetic as real images, at most SHOWN, drawn at random."""
    n = min(SHOWN, len(fake), len(real))
    sides = zip(titles, (fake, real), ("fake", "real"), strict=True)
    return side_by_side(
        {title: images[random_subset(len(images), n, seed, "grid", side)] for title, images, side in sides}
    )


def closest_pairs(pairs: Sequence[ClosePair], fake: Array, train: Array) -> bytes:
    """Return synthetic images, their nearest training images and the absolute differences, the closest pair first.

    Args:
        pairs: the closest first; at most PAIRS are shown.
        fake: synthetic images (n, H, W) or (n, H, W, 3) uint8.
        train: training images, likewise.
    """
    shown = [
        ImagePair(
            (fake[i], train[j], np.abs(fake[i].astype(int) - train[j].astype(int))),
            title=f"pair {number}",
            labels=("", "", f"distance {fixed(distance, 3)}"),
        )
        for number, (i, j, distance) in enumerate(pairs[:PAIRS], 1)
    ]
    return pair_figure(shown, ("synthetic", "nearest\ntraining image", "absolute\ndifference"))


def spectrum(s: Spectrum) -> bytes:
    """Return radial power spectra in dB, and their difference beside its real baseline."""
    frequency, real, fake, sd = (np.asarray(curve) for curve in (s.frequency, s.real, s.fake, s.real_sd))
    figure, ((left, right),) = subplots(1, 2, 9.6, 3.7)
    left.fill_between(frequency, real - 2 * sd, real + 2 * sd, color=REAL, alpha=0.15, linewidth=0)
    left.plot(frequency, real, color=REAL, label="real (band: ± 2 SD of single images)")
    left.plot(frequency, fake, color=FAKE, label="synthetic")
    left.set(xlabel="cycles per pixel", ylabel="power, dB", title="Radial power spectrum")
    left.legend(frameon=False, fontsize=8)
    right.axhspan(-s.rms_db_real_baseline, s.rms_db_real_baseline, color=REAL, alpha=0.15, linewidth=0)
    right.axhline(0, color=REAL, linewidth=0.8)
    right.plot(frequency, np.asarray(s.difference), color=FAKE)
    right.set(xlabel="cycles per pixel", ylabel="dB", title="Synthetic − real (band: RMS of real − real)")
    for axes in (left, right):
        axes.set_xlim(0, max(0.5, float(frequency.max())))
        axes.grid(alpha=0.2)
    return png(figure)


def training(rows: Sequence[Mapping[str, float]], used: int) -> bytes:
    """Return KID and Fréchet distance over training, with their real baselines.

    Args:
        rows: ``step``, ``kid``, ``kid_real_baseline`` and so on of each snapshot; at least one.
        used: the step that the exported images come from.
    """
    steps = [int(row["step"]) for row in rows]
    figure, (panels,) = subplots(1, 2, 9.6, 3.5)
    for axes, key, title in zip(panels, ("kid", "frechet"), ("KID", "Fréchet distance"), strict=True):
        values = [row[key] for row in rows]
        axes.plot(steps, values, "o-", color=FAKE, markersize=3.5, label="synthetic")
        baselines = [row[f"{key}_real_baseline"] for row in rows]
        axes.plot(steps, baselines, color=REAL, linestyle="--", label="real against real")
        axes.axvline(used, color=OTHER, linewidth=1, linestyle=":", label="step used")
        axes.set(xlabel="step", title=f"{title} on the training fold")
        _cut_spikes(axes, steps, values)
        axes.grid(alpha=0.2)
    panels[0].legend(frameon=False, fontsize=8)
    return png(figure)


def _cut_spikes(axes: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    """Limit the axis to five medians, so that no spike flattens the rest, and write the height of each spike."""
    top = min(1.08 * max(values), 5 * float(np.median(values)))
    if top <= 0:
        return
    axes.set_ylim(min(0, *values) - 0.05 * top, top)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for step, value in zip(steps, values, strict=True):
        if value > top:  # on the side of the spike that has room
            side, offset = ("left", 4) if 2 * step < steps[0] + steps[-1] else ("right", -4)
            style: dict[str, Any] = {
                "ha": side,
                "fontsize": 8,
                "color": FAKE,
                "bbox": box,
                "textcoords": "offset points",
            }
            axes.annotate(f"↑ {value:.3g}", (step, top), (offset, -14), **style)
