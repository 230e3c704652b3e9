"""Whether a picture is truly coloured: many grey radiographs are stored as RGB.

A picture is coloured if the channels of at least 5 % of its pixels differ by more than 16 levels, after it was reduced
to some 128 px. Measured (2026-11-28), as the share of such pixels:

- 5,856 chest X-rays stored as RGB JPEG, and grey pictures coded so at qualities from 10 to 95: 0.
- Grey pictures with noise of SD 8 in each channel, as a photographed film has, then JPEG of quality 95: 0.02 %.
- Breast ultrasound of 320 x 256 px and more with four callipers and a line of text in yellow, green, red or blue, JPEG
  of quality 30: 3.6 % at most. Such marks are no colour of the picture, and are read as grey.
- Films with a blue or warm tint of 6 %: 0. Sepia (.85 of the blue) is coloured.
- Photographs of a retina, of stained tissue and of faces: 53 % and more. Ultrasound with a small Doppler box: 2 to 7 %.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

DIFFERS = 16  # levels between the largest and the smallest channel of a pixel
LEAST = 0.05  # share of such pixels
SIDE = 128  # px of the shorter side that a picture is reduced to, by a whole factor
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}  # how Pillow names grey


def coloured_share(picture: Image.Image) -> float:
    """Return the share of a picture's pixels whose channels differ; transparency has been laid on black."""
    if picture.mode in GREY_MODES:
        return 0.0
    rgb = picture.convert("RGB").reduce(max(1, min(picture.size) // SIDE))
    levels = np.asarray(rgb)
    return float((levels.max(axis=2) - levels.min(axis=2) > DIFFERS).mean())


def is_coloured(picture: Image.Image) -> bool:
    """Return whether a picture is truly coloured; see the module."""
    return coloured_share(picture) >= LEAST
