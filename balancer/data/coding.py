"""The marks of JPEG coding, which survive only where images are stored as JPEG at the very size at which they are used.

At 64 px, a small network on pixels tells radiographs stored as JPEG (quality 75) from others stored as PNG with an
AUROC of .999. Stored at 80 px or more and reduced to 64 px, they cannot be told apart (docs/features.md). So files of
another size, and sets of other formats, need nothing here. Where real images bear these marks, synthetic images get
the same.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from balancer.core.pixels import GREY, in_colour, luminance
from balancer.data.dataset import Dataset

Array = np.ndarray
Table = tuple[int, ...]  # 64 steps of quantisation
SAMPLED = 64  # files of a set whose headers are read


@dataclass(frozen=True)
class Jpeg:
    """What decides on the marks of a JPEG file."""

    tables: tuple[Table, ...]  # of the luminance and, in colour, of the chrominance
    sampling: int = 0  # of the chrominance, as Pillow numbers it: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0


@dataclass(frozen=True)
class Coding:
    """How files are coded: of each, its JPEG coding at the working size, or None for any other coding."""

    tables: tuple[Jpeg | None, ...]

    @property
    def is_seen(self) -> bool:
        """Return whether some files bear the marks of JPEG at the working size."""
        return any(self.tables)

    @property
    def share(self) -> float:
        """Return the share of such files."""
        return sum(table is not None for table in self.tables) / max(1, len(self.tables))

    def of(self, images: Array) -> Array:
        """Return images uint8 coded as these files are: image i as file i, again from the first on."""
        return np.stack([coded(image, self.tables[i % len(self.tables)]) for i, image in enumerate(images)])


def coded(image: Array, jpeg: Jpeg | None) -> Array:
    """Return an image (H, W) or (H, W, 3) uint8 as it comes back from a JPEG file; itself without a coding."""
    if jpeg is None:
        return image
    buffer, tables = io.BytesIO(), [list(table) for table in jpeg.tables]
    if image.ndim == 2:
        Image.fromarray(image).save(buffer, "JPEG", qtables=tables[:1])
    elif len(tables) == 1:  # a file in grey among images in colour
        return in_colour(coded(luminance(image[None])[0], jpeg)[None])[0]
    else:
        Image.fromarray(image).save(buffer, "JPEG", qtables=tables, subsampling=jpeg.sampling)
    buffer.seek(0)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded)


def file_coding(file: Path, size: int, channels: int = GREY) -> Jpeg | None:
    """Return the coding of a JPEG file of ``size`` x ``size`` px; None for any other file.

    Of the coding of a file that is read in grey, the luminance alone counts.
    """
    try:
        with Image.open(file) as image:
            if image.format in ("JPEG", "MPO") and image.size == (size, size):
                stored: dict[int, Table] = getattr(image, "quantization", {})
                tables = tuple(tuple(stored[k]) for k in sorted(stored))
                if not stored.get(0):
                    return None
                if channels == GREY or image.mode == "L":
                    return Jpeg(tables[:1])
                return Jpeg(tables[:2] if len(tables) > 1 else 2 * tables, max(0, get_sampling(image)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # decoding says what is wrong with the file
    return None


def read_coding(files: Sequence[Path], size: int, channels: int = GREY) -> Coding:
    """Return the coding of files that are used at ``size`` px, by at most SAMPLED of them, evenly spread."""
    chosen: Array = np.unique(np.linspace(0, len(files) - 1, min(SAMPLED, len(files))).astype(int))
    return Coding(tuple(file_coding(files[i], size, channels) for i in chosen))


def dataset_coding(data: Dataset, label: int) -> Coding:
    """Return the coding of the training fold's files of a class; archives and drawings have no files."""
    if data.is_phantom or data.folder is None:
        return Coding(())
    files = [data.folder / data.records[i].name for i in data.indices("train", label)]
    return read_coding(files, data.images.shape[1], data.channels)


def coding_note(what: str, coding: Coding, size: int) -> str:
    """Return what a reader must know of images that :meth:`Coding.of` has changed."""
    some = "The" if coding.share == 1 else f"{100 * coding.share:.0f} % of the"
    return (
        f"{some} real images are JPEG files of {size} x {size} px, the size at which they are used. {what} were coded "
        "as the real images are, so that the file format alone does not part them."
    )
