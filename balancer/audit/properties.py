"""What can be measured of an image without looking at the anatomy: its size, sharpness, brightness and border.

Every file is read once at its own size. The figures and a thumbnail of each file are cached under the fingerprint of
the data set, so that only the first audit of a data set takes time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY, channels_of, in_colour, luminance
from balancer.data import cache
from balancer.data.cached_images import cached_images
from balancer.data.dataset import Dataset
from balancer.data.depth import Ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.images import read_picture, resize_image
from balancer.data.near_duplicates import Thumbnails

Array = np.ndarray
FORMAT = 4  # raise when what is measured changes
THUMBNAIL = 64  # pixels a side, squashed
BORDER_SHARE = 0.03  # of the shorter side: the outer ring that counts as border
BLACK = 8  # grey levels below which a pixel of the border is black
CHUNK_PIXELS = 1 << 22  # measured at a time, which bounds the memory


@dataclass(frozen=True)
class Property:
    """One number of an image; ``skewed`` numbers are shown and modelled on a logarithmic scale."""

    key: str
    words: str
    skewed: bool = False


OF_FILES = (
    Property("width", "width, px", skewed=True),
    Property("height", "height, px", skewed=True),
    Property("aspect", "width / height"),
    Property("bytes_per_pixel", "file bytes per pixel", skewed=True),
)
OF_PIXELS = (
    Property("sharpness", "sharpness (Laplacian variance)", skewed=True),
    Property("brightness", "mean brightness, grey levels"),
    Property("contrast", "contrast (SD), grey levels"),
    Property("border_brightness", "mean of the border, grey levels"),
    Property("border_black", "black share of the border"),
)
OF_COLOURS = (  # of images in colour, beside the properties of their luminance
    Property("saturation", "colour (largest - smallest channel), levels"),
    Property("warmth", "warmth (red - blue), levels"),
)


@dataclass(frozen=True)
class Measured:
    """The properties of every image of a data set, in its order.

    ``values`` (n, len(properties)) float64; ``thumbnails`` (n, THUMBNAIL, THUMBNAIL) uint8, by
    position. ``from_files`` is true if
    both were read from files at their own size, false if from the working images, because there are no files.
    """

    properties: tuple[Property, ...]
    values: Array
    thumbnails: Thumbnails
    from_files: bool


def measure(data: Dataset) -> Measured:
    """Measure every image: from its file, through the cache, or else from the working image.

    Raises:
        BalancerError: a file can no longer be read.
    """
    folder = data.folder
    if folder is None:
        return Measured(
            of_pixels(data.channels), pixel_properties(data.images), SmallImages(data.images), from_files=False
        )
    files = [folder / record.name for record in data.records]
    properties, how = (*OF_FILES, *of_pixels(data.channels)), (data.ranges, data.rules, data.channels)

    def measured(thumbnails: Array) -> dict[str, Array]:
        values = np.empty((len(files), len(properties)))

        def one(i: int) -> None:
            values[i], thumbnails[i] = _measure_file(files[i], *how)

        cache.in_threads(one, len(files), "measuring")
        return {"values": values}

    shape, layout = (len(files), THUMBNAIL, THUMBNAIL), {"values": ("float64", (len(files), len(properties)))}
    thumbnails, stored = cached_images(_cache_file(data), shape, layout, measured)
    return Measured(properties, stored["values"], thumbnails, from_files=True)


class SmallImages:
    """The thumbnails of an archive's images, made when they are asked for: those of a large set fill the memory."""

    def __init__(self, images: Array) -> None:
        """Take the images (n, H, W) or (n, H, W, 3) uint8."""
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, positions: Array) -> Array:
        """Return the thumbnails (k, THUMBNAIL, THUMBNAIL) uint8 of positions (k,)."""
        thumbnails = np.empty((len(positions), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
        for i, image in enumerate(luminance(np.asarray(self._images[positions]))):
            thumbnails[i] = resize_image(Image.fromarray(image), THUMBNAIL, "squash")
        return thumbnails


def is_measured(data: Dataset) -> bool:
    """Return whether the measurements are cached, so that :func:`measure` takes no time."""
    return data.folder is None or _cache_file(data).exists()


def of_pixels(channels: int) -> tuple[Property, ...]:
    """Return what is measured of the pixels of images with so many channels."""
    return OF_PIXELS if channels == GREY else (*OF_PIXELS, *OF_COLOURS)


def pixel_properties(images: Array) -> Array:
    """Return the properties :func:`of_pixels` of images.

    Args:
        images: (n, H, W), grey levels from 0 to 255; or (n, H, W, 3) uint8.

    Returns:
        (n, properties) float64. Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000,
        doi:10.1109/ICPR.2000.903548; four neighbours, mirrored at the edge): it grows with noise as with fine detail,
        and depends on the size of the image.
    """
    n = max(1, CHUNK_PIXELS // images[0].size)
    return np.concatenate([_pixel_properties(images[i : i + n]) for i in range(0, len(images), n)])


def _pixel_properties(images: Array) -> Array:
    if channels_of(images) == GREY:
        return _grey_properties(images)
    levels = images.astype(np.float32)
    columns = ((levels.max(axis=3) - levels.min(axis=3)), levels[..., 0] - levels[..., 2])
    means = [column.mean(axis=(1, 2), dtype=np.float64) for column in columns]
    return np.column_stack([_grey_properties(luminance(images)), *means])


def _grey_properties(images: Array) -> Array:
    grey = np.asarray(images, dtype=np.float32)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    sides = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    width = max(1, round(BORDER_SHARE * min(grey.shape[1:])))
    ring = np.ones(grey.shape[1:], dtype=bool)
    ring[width:-width, width:-width] = False
    border = grey[:, ring]
    columns = (
        (sides - 4 * grey).var(axis=(1, 2), dtype=np.float64),
        grey.mean(axis=(1, 2), dtype=np.float64),
        grey.std(axis=(1, 2), dtype=np.float64),
        border.mean(axis=1, dtype=np.float64),
        (border < BLACK).mean(axis=1),
    )
    return np.stack(columns, axis=1)


def _cache_file(data: Dataset) -> Path:
    rules, colour = data.rules.to_key() or "", " colour" if data.channels != GREY else ""
    key = hashlib.sha256(f"{FORMAT} {data.fingerprint}{rules}{colour}".encode()).hexdigest()[:24]
    return cache.cache_dir("audit") / f"{key}.npz"


def _measure_file(file: Path, ranges: Ranges, rules: DicomRules, channels: int) -> tuple[Array, Array]:
    try:
        picture = read_picture(file, ranges, rules, channels)
        size = file.stat().st_size
    except OSError as error:
        raise BalancerError(f"{file} could be read a moment ago and now cannot ({error}); run again") from error
    width, height = picture.size
    of_file = (width, height, width / height, size / (width * height))
    grey = picture if picture.mode in ("L", "F") else picture.convert("L")
    levels = np.asarray(picture, dtype=np.float32 if channels == GREY else np.uint8)[None]
    properties = pixel_properties(levels if channels == GREY else in_colour(levels))[0]
    return np.array([*of_file, *properties]), resize_image(grey, THUMBNAIL, "squash")
