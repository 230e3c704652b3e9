"""Pixels as text that a page shows as a picture."""

from __future__ import annotations

import base64

import numpy as np

from balancer.reporting.grids import png_bytes


def data_url(pixels: np.ndarray) -> str:
    """Return grey (h, w), RGB (h, w, 3) or RGBA (h, w, 4) pixels uint8 as the data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(pixels, effort=3)).decode()}"
