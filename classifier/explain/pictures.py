"""Pictures of heat maps: coloured maps, overlays, tiles with captions, contact sheets. Arrays and PNG files only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from balancer.reporting.grids import png_bytes

Array = np.ndarray
SIDE = 160  # px of a tile
OPACITY = 0.7  # of the strongest evidence
COLOURS = "inferno"  # of Matplotlib: its lightness rises evenly, so that print and colour-blind eyes lose no order
LINE = 17  # px of a line of text
GAP = 6
INK, PAPER = (26, 26, 26), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """A picture with lines of text below it."""

    picture: Array  # (H, W) grey or (H, W, 3), uint8
    lines: tuple[str, ...] = ()


def png(picture: Array) -> bytes:
    """Return a picture as a PNG file, made fast: there are hundreds."""
    return png_bytes(picture, effort=3)


@cache
def _colours() -> Array:
    """Return the colour (256, 3) uint8 of each level of evidence."""
    from matplotlib import colormaps

    return (colormaps[COLOURS](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def enlarged(picture: Array, side: int = SIDE) -> Array:
    """Return a picture (H, W) or (H, W, 3) uint8 with its longer side at ``side`` px, or larger if it is larger."""
    factor = max(1.0, side / max(picture.shape[:2]))
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def heat_rgba(heat: Array, side: int = SIDE) -> Array:
    """Return a map (H, W) in [0, 1] as colours with opacity, (side, side, 4) uint8: no evidence is transparent."""
    levels = enlarged((heat * 255).round().astype(np.uint8), side)
    alpha = (levels * OPACITY).round().astype(np.uint8)
    return np.concatenate([_colours()[levels], alpha[..., None]], axis=-1)


def overlay(pixels: Array, heat: Array, side: int = SIDE) -> Array:
    """Return an image (H, W) or (H, W, 3) uint8 under its map (H, W) in [0, 1], as (side, side, 3) uint8."""
    colour = heat_rgba(heat, side).astype(np.float64)
    alpha = colour[..., 3:] / 255
    below = enlarged(pixels, side)
    below = below[..., None] if below.ndim == 2 else below
    mixed: Array = (alpha * colour[..., :3] + (1 - alpha) * below).round().astype(np.uint8)
    return mixed


def grid(rows: Sequence[Sequence[Tile]], side: int = SIDE) -> Array:
    """Return rows of tiles on white, (H, W, 3) uint8; a row is as high as its longest text asks for."""
    columns = max(len(row) for row in rows)
    texts = [max((len(tile.lines) for tile in row), default=0) for row in rows]
    heights = [side + (LINE * n + 4 if n else 0) + GAP for n in texts]
    canvas = Image.new("RGB", (columns * (side + GAP) + GAP, sum(heights) + GAP), PAPER)
    draw, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(size=13), GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = GAP + column * (side + GAP)
            picture = enlarged(tile.picture, side)
            canvas.paste(Image.fromarray(picture).convert("RGB"), (left, top))
            for i, line in enumerate(tile.lines):
                draw.text((left, top + side + 2 + i * LINE), _fitting(line, font, side), fill=INK, font=font)
        top += height
    return np.asarray(canvas)


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return a line cut in its middle until it is no wider than a tile."""
    kept = len(line)
    text = line
    while font.getlength(text) > width and kept > 2:
        kept -= 1
        text = f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
    return text


def scale(width: int = SIDE) -> Array:
    """Return the colours from no evidence to the strongest, (12, width, 3) uint8, over mid-grey."""
    heat = np.repeat(np.linspace(0, 1, width)[None], 12, axis=0)
    return overlay(np.full((12, width), 128, np.uint8), heat, width)
