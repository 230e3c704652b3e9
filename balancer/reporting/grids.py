"""Grids of images as PNG files."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from balancer.core.files import atomic_file
from balancer.core.pixels import GREY, channels_of, from_planes, same_channels

Array = np.ndarray
GAP = 2


@dataclass(frozen=True)
class Picture:
    """A PNG file in memory, which notebooks show."""

    png: bytes = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the file."""
        with atomic_file(path) as handle:
            handle.write(self.png)

    def _repr_png_(self) -> bytes:
        return self.png


def to_uint8(images: Tensor) -> Array:
    """Return (n, 1 or 3, H, W) in [-1, 1] as (n, H, W) or (n, H, W, 3) uint8, rounded to the nearest level."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(from_planes(levels).cpu().numpy())


def tile(images: Array, columns: int) -> Array:
    """Return (n, H, W) or (n, H, W, 3) uint8 laid out row by row on a dark ground."""
    n, height, width, *colours = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, *colours), 24, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def png_bytes(pixels: Array, effort: int = 6) -> bytes:
    """Return an 8-bit grey (H, W) or RGB (H, W, 3) array as a PNG file.

    ``effort`` is zlib's, from 0 to 9: 3 takes a third of the time that 6 takes, for files an eighth larger.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=effort)
    return buffer.getvalue()


def save_grid(path: Path, images: Array, columns: int = 8) -> None:
    """Write (n, H, W) or (n, H, W, 3) uint8 as one sheet, small images enlarged without smoothing."""
    sheet = tile(images, columns)
    factor = max(1, 128 // images.shape[1])
    with atomic_file(path) as handle:
        handle.write(png_bytes(sheet.repeat(factor, 0).repeat(factor, 1)))


def side_by_side(panels: dict[str, Array], columns: int = 6) -> bytes:
    """Return several sets, (n, H, W) or (n, H, W, 3), beside one another, each under its title, as a PNG file."""
    sets = same_channels(list(panels.values()))
    sheets = {title: tile(images, columns) for title, images in zip(panels, sets, strict=True)}
    factor = max(1, 128 // next(iter(panels.values())).shape[1])
    sheets = {title: sheet.repeat(factor, 0).repeat(factor, 1) for title, sheet in sheets.items()}
    head, gutter = 34, 28
    width = sum(s.shape[1] for s in sheets.values()) + gutter * (len(sheets) - 1)
    height = head + max(s.shape[0] for s in sheets.values())
    canvas = Image.new("L" if channels_of(sets[0]) == GREY else "RGB", (width, height), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    font = ImageFont.load_default(size=20)
    for title, sheet in sheets.items():
        draw.text((left + 4, 5), title, fill="black", font=font)
        canvas.paste(Image.fromarray(sheet), (left, head))
        left += sheet.shape[1] + gutter
    return png_bytes(np.asarray(canvas))
