"""Any image that PIL reads, as grey uint8 at the working size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray
_SIXTEEN_BIT = 65535.0


def to_grey(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as mode ``L``, or ``F`` in [0, 255] where the source has more than 8 bits.

    EXIF rotation is applied. Transparency is laid on black, the background of a radiograph. Deep images are
    scaled by their bit depth (65,535 becomes 255), never by their own maximum, so that exposure survives.

    Raises:
        OSError: the pixel data are truncated or corrupt.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > _SIXTEEN_BIT:
            raise OSError(f"{image.mode} pixels outside 0 to 65535")
        fraction = image.mode == "F" and values.max() <= 1
        eight_bit = image.mode == "F" and 1 < values.max() <= 255
        return Image.fromarray(values * (255.0 if fraction else 1.0 if eight_bit else 255.0 / _SIXTEEN_BIT))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("L")


def resize_grey(image: Image.Image, size: int, how: str) -> Array:
    """Bring a grey image to (size, size) uint8, antialiased (bicubic over the whole footprint of a pixel).

    ``squash`` ignores the aspect ratio, ``pad`` adds black borders, ``crop`` cuts the longer side, centred.
    """
    method = Image.Resampling.BICUBIC
    if how == "pad":
        image = ImageOps.pad(image, (size, size), method=method, color=0)
    elif how == "crop":
        image = ImageOps.fit(image, (size, size), method=method)
    elif image.size != (size, size):
        image = image.resize((size, size), method)
    return np.clip(np.rint(np.asarray(image, dtype=np.float32)), 0, 255).astype(np.uint8)


def read_image(path: Path, size: int, how: str) -> Array:
    """Decode a file to (size, size) grey uint8.

    A JPEG much larger than needed is decoded at a reduced scale (never below twice the working size), which
    for multi-megapixel originals saves most of the time.

    Raises:
        OSError: unreadable, empty, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                image.draft("L" if image.mode in ("L", "RGB") else None, (2 * size, 2 * size))
            return resize_grey(to_grey(image), size, how)
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
