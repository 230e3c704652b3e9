"""The pictures of a data audit, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from balancer.audit.properties import Measured
from balancer.audit.results import NearPair
from balancer.core.pixels import luminance
from balancer.data.dataset import Dataset
from balancer.data.images import read_image, resize_image
from balancer.reporting.numbers import short
from balancer.reporting.plots import BLUE, PALETTE, VERMILION, ImagePair, pair_figure, png, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
COLOURS = (BLUE, VERMILION, *PALETTE[3:], PALETTE[0])  # of the classes, in label order
MOST_CLASSES = 6  # whose extremes are shown: a row an extreme and class
SIDE = 128  # pixels of a picture
PAIRS, EXTREMES = 8, 6
SHOWN_EXTREMES = ("sharpness", "brightness", "contrast", "border_black")
BINS = 40
CUT = 0.002  # share at either end that a histogram leaves out, so that a few images do not squeeze the rest
WIDE = 4
GAP = 3  # pixels between pictures


def histograms(data: Dataset, measured: Measured) -> bytes:
    """Return histograms of each property that varies, by class, in the official training split."""
    train = np.array([record.split == "train" for record in data.records])
    varying = [i for i in range(len(measured.properties)) if np.ptp(measured.values[train, i]) > 0]
    columns = 3
    rows = max(1, -(-len(varying) // columns))
    figure, axes = subplots(rows, columns, 10.5, 2.6 * rows + 0.3)
    for panel in axes.flat[len(varying) :]:
        panel.axis("off")
    for panel, i in zip(axes.flat, varying, strict=False):
        prop, values = measured.properties[i], measured.values[:, i]
        _histogram(
            panel,
            [values[train & (data.labels == label)] for label in range(len(data.classes))],
            data.classes,
            prop.skewed,
        )
        panel.set_title(prop.words, fontsize=9)
    if varying:
        figure.legend(
            *axes.flat[0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=min(len(data.classes), 4),
            frameon=False,
            fontsize=9,
        )
    return png(figure)


def _histogram(panel: Axes, by_class: Sequence[Array], classes: Sequence[str], skewed: bool) -> None:
    """Draw the shares of each class's images; skewed values over a range of WIDE and more get a logarithmic scale."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    together = np.concatenate(by_class)
    low, high = np.quantile(together, [CUT, 1 - CUT])
    if low == high:
        low, high = together.min(), together.max()
    logarithmic = skewed and high > WIDE * low > 0
    edges = np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
    for values, cls, colour in zip(by_class, classes, cycle(COLOURS), strict=False):
        share = np.histogram(values, edges)[0] / max(1, len(values))
        panel.stairs(100 * share, edges, fill=True, color=colour, alpha=0.3)
        panel.stairs(100 * share, edges, color=colour, linewidth=1.2, label=f"{cls}, n = {len(values):,}")
    if logarithmic:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("% of images", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.2)


def closest_pairs(data: Dataset, pairs: Sequence[NearPair], threshold: float) -> bytes | None:
    """Return the most similar pairs, and where they differ once brightness and contrast are removed.

    Args:
        data: the data set of the pairs.
        pairs: the most similar first; at most PAIRS are shown. Without a pair there is no figure: None.
        threshold: correlation from which a pair counts as a near duplicate.
    """
    shown = pairs[:PAIRS]
    if not shown:
        return None
    place = {record.name: i for i, record in enumerate(data.records)}
    chosen = [[place[name] for name in pair.names] for pair in shown]
    pictures = _pictures(data, [i for pair in chosen for i in pair])
    columns = []
    for number, (pair, positions) in enumerate(zip(shown, chosen, strict=True), 1):
        first, second = (pictures[i] for i in positions)
        difference = np.clip(64 * np.abs(_standardised(first) - _standardised(second)), 0, 255)
        kind = "near duplicate" if pair.correlation >= threshold else "below the threshold"
        folds = [f"{fold}, {cls}" for fold, cls in zip(pair.folds, pair.classes, strict=True)]
        title = f"pair {number}: {short(pair.correlation)}\n{kind}"
        columns.append(ImagePair((first, second, difference), title, (folds[0], folds[1], "")))
    return pair_figure(columns, ("first", "second", "difference"))


def extremes(data: Dataset, measured: Measured) -> bytes:
    """Return, for each class in the official training split, the images with the least and the most of a property."""
    train = np.array([record.split == "train" for record in data.records])
    keys = [prop.key for prop in measured.properties]
    rows = [(key, label) for key in SHOWN_EXTREMES for label in range(min(len(data.classes), MOST_CLASSES))]
    figure, axes = subplots(len(rows), 1, 11, 1.1 * len(rows) + 0.3)
    for panel, (key, label) in zip(axes.flat, rows, strict=True):
        values = measured.values[:, keys.index(key)]
        members = np.flatnonzero(train & (data.labels == label))
        order = members[np.argsort(values[members], kind="stable")]
        _show_row(panel, data, values, (order[:EXTREMES], order[EXTREMES:][-EXTREMES:]))
        panel.set_ylabel(f"{key.replace('_', ' ')}\n{data.classes[label]}", fontsize=8)
    axes[0, 0].set_title("least", loc="left", fontsize=9)
    axes[0, 0].set_title("most", loc="right", fontsize=9)
    return png(figure)


def _show_row(panel: Axes, data: Dataset, values: Array, halves: tuple[Array, Array]) -> None:
    """Draw two sets of at most EXTREMES images in one line with space between, each over its value."""
    width = EXTREMES * (SIDE + GAP)
    strip = np.full((SIDE, 2 * width + 8 * GAP, *data.images.shape[3:]), 255, dtype=np.uint8)
    ticks = {}
    for start, chosen in zip((0, width + 8 * GAP), halves, strict=True):
        for k, (i, picture) in enumerate(_pictures(data, chosen.tolist()).items()):
            left = start + k * (SIDE + GAP)
            strip[:, left : left + SIDE] = picture
            ticks[left + SIDE / 2] = _three_digits(float(values[i]))
    panel.imshow(strip, cmap="gray", vmin=0, vmax=255)
    panel.set_xticks(list(ticks), list(ticks.values()), fontsize=7)
    panel.set_yticks([])
    panel.tick_params(length=0, pad=1)
    panel.spines[:].set_visible(False)


def _three_digits(value: float) -> str:
    """Return ``0.05``, ``9.87``, ``98.7`` or ``1,390``: a value below an image."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{decimals}f}"


def _pictures(data: Dataset, chosen: Sequence[int]) -> dict[int, Array]:
    """Return images of SIDE px uint8 by position, in the channels of the data, from their files where there are any."""
    folder = data.folder
    if folder is not None:
        files = {i: folder / data.records[i].name for i in chosen}
        how = SIDE, "squash", data.ranges, data.rules, data.channels
        return {i: read_image(file, *how) for i, file in files.items()}
    return {i: resize_image(Image.fromarray(data.images[i]), SIDE, "squash") for i in chosen}


def _standardised(picture: Array) -> Array:
    grey = luminance(picture[None])[0].astype(np.float64)
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), 1.0))
