"""Matplotlib figures without pyplot: nothing global is touched, and a figure is freed with its last reference."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from balancer.core.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, VERMILION, BLUE = "#4d4d4d", "#d55e00", "#0072b2"
PALETTE = (GREY, BLUE, VERMILION, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31")  # Okabe & Ito 2008


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of ``width`` x ``height`` inches and its axes (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def png(figure: Figure, dpi: int = 130) -> bytes:
    """Return a figure as a PNG file, the same bytes on every version of Matplotlib that draws the same pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as an SVG file, the same bytes each time; text becomes outlines, which need no font."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "balancer", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class ImagePair:
    """A column of :func:`pair_figure`: two images and their difference, grey or RGB from 0 to 255, with texts."""

    images: tuple[np.ndarray, np.ndarray, np.ndarray]
    title: str
    labels: tuple[str, str, str]  # below each image


def pair_figure(pairs: Sequence[ImagePair], rows: tuple[str, str, str]) -> bytes:
    """Return pairs side by side, first image, second image and difference below one another, as a PNG file.

    Args:
        pairs: at least one.
        rows: what each row shows.
    """
    columns = max(len(pairs), 4)  # so that a single pair is not blown up
    figure, axes = subplots(3, columns, 1.45 * columns + 0.5, 5.0)
    for panel in axes.flat:
        panel.axis("off")
    for column, pair in enumerate(pairs):
        for panel, image, label in zip(axes[:, column], pair.images, pair.labels, strict=True):
            panel.axis("on")
            panel.set(xticks=[], yticks=[])
            panel.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel.set_xlabel(label, fontsize=9)
        axes[0, column].set_title(pair.title, fontsize=9.5)
    for panel, label in zip(axes[:, 0], rows, strict=True):
        panel.set_ylabel(label, fontsize=10.5)
    return png(figure)


def save_figure(figure: Figure, folder: Path, name: str, dpi: int = 150) -> bytes:
    """Write a figure as ``<name>.png`` and ``<name>.svg`` into an existing folder; return the PNG file."""
    picture = png(figure, dpi)
    figure.set_layout_engine("none")  # the SVG keeps the places that were found for the PNG
    for suffix, content in ((".png", picture), (".svg", svg(figure))):
        with atomic_file(folder / f"{name}{suffix}") as handle:
            handle.write(content)
    return picture
