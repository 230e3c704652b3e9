"""Matplotlib figures without pyplot: nothing global is touched, and a figure is freed with its last reference."""

from __future__ import annotations

import io
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


def save_figure(figure: Figure, folder: Path, name: str, dpi: int = 150) -> bytes:
    """Write a figure as ``<name>.png`` and ``<name>.svg`` into an existing folder; return the PNG file."""
    picture = png(figure, dpi)
    figure.set_layout_engine("none")  # the SVG keeps the places that were found for the PNG
    for suffix, content in ((".png", picture), (".svg", svg(figure))):
        with atomic_file(folder / f"{name}{suffix}") as handle:
            handle.write(content)
    return picture
