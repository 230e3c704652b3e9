"""Reading any image that PIL reads, as grey uint8 at the working size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

Array = np.ndarray
_SIXTEEN_BIT = 65535.0


def to_grey(image: Image.Image) -> Image.Image:
    """Return a PIL image of any mode as mode ``L``, or as ``F`` in [0, 255] if the source has more than 8 bits.

    EXIF rotation is applied. Transparency is laid on black, the background of a radiograph. Deep images are scaled by
    their bit depth (65,535 becomes 255), never by their own maximum, which would change the exposure.

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


def resize_grey(image: Image.Image, size: int, how: str, extent: tuple[float, float] | None = None) -> Array:
    """Return a grey image as (size, size) uint8, antialiased (bicubic over the whole footprint of a pixel).

    ``how`` is ``squash``, which ignores the aspect ratio, ``pad``, which adds black borders, or ``crop``, which cuts
    the longer side, centred. ``extent`` is (width, height) in pixels of the part, from the top left, with the picture.
    """
    method = Image.Resampling.BICUBIC
    width, height = extent or image.size
    if how == "pad":
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        picture = image.resize(inner, method, (0, 0, width, height))
        image = Image.new(picture.mode, (size, size), 0)
        image.paste(picture, (round((size - inner[0]) / 2), round((size - inner[1]) / 2)))
    elif how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), method, (left, top, left + side, top + side))
    else:
        image = image.resize((size, size), method, (0, 0, width, height))
    return np.clip(np.rint(np.asarray(image, dtype=np.float32)), 0, 255).astype(np.uint8)


def read_image(path: Path, size: int, how: str) -> Array:
    """Return an image file as (size, size) grey uint8.

    A JPEG much larger than needed is decoded at a reduced scale, never below twice the working size. For originals of
    several megapixels this saves most of the time.

    Raises:
        OSError: unreadable, empty, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            extent = None
            if image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                reduced = image.draft("L" if image.mode in ("L", "RGB") else None, (2 * size, 2 * size))
                # 700 rows reduced to an eighth are 88 rows, the last half empty: the picture ends at 87.5.
                extent = reduced[1][2:] if reduced else None
            return resize_grey(to_grey(image), size, how, extent)
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
