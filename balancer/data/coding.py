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

from balancer.data.dataset import Dataset

Array = np.ndarray
Table = tuple[int, ...]  # 64 steps of quantisation of the grey level
SAMPLED = 64  # files of a set whose headers are read


@dataclass(frozen=True)
class Coding:
    """How files are coded: of each, the table of its JPEG coding at the working size, or None for any other coding."""

    tables: tuple[Table | None, ...]

    @property
    def is_seen(self) -> bool:
        """Return whether some files bear the marks of JPEG at the working size."""
        return any(self.tables)

    @property
    def share(self) -> float:
        """Return the share of such files."""
        return sum(table is not None for table in self.tables) / max(1, len(self.tables))

    def of(self, images: Array) -> Array:
        """Return images (n, size, size) uint8 coded as these files are: image i as file i, again from the first on."""
        return np.stack([coded(image, self.tables[i % len(self.tables)]) for i, image in enumerate(images)])


def coded(image: Array, table: Table | None) -> Array:
    """Return a grey image (H, W) uint8 as it comes back from a JPEG file; itself without a table."""
    if table is None:
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", qtables=[list(table)])
    buffer.seek(0)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded)


def file_table(file: Path, size: int) -> Table | None:
    """Return the grey quantisation table of a JPEG file of ``size`` x ``size`` px; None for any other file."""
    try:
        with Image.open(file) as image:
            if image.format in ("JPEG", "MPO") and image.size == (size, size):
                return tuple(getattr(image, "quantization", {}).get(0, ())) or None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # decoding says what is wrong with the file
    return None


def read_coding(files: Sequence[Path], size: int) -> Coding:
    """Return the coding of files that are used at ``size`` px, by at most SAMPLED of them, evenly spread."""
    chosen: Array = np.unique(np.linspace(0, len(files) - 1, min(SAMPLED, len(files))).astype(int))
    return Coding(tuple(file_table(files[i], size) for i in chosen))


def dataset_coding(data: Dataset, label: int) -> Coding:
    """Return the coding of the training fold's files of a class; archives and drawings have no files."""
    if data.is_phantom or data.folder is None:
        return Coding(())
    files = [data.folder / data.records[i].name for i in data.indices("train", label)]
    return read_coding(files, data.images.shape[1])


def coding_note(what: str, coding: Coding, size: int) -> str:
    """Return what a reader must know of images that :meth:`Coding.of` has changed."""
    some = "The" if coding.share == 1 else f"{100 * coding.share:.0f} % of the"
    return (
        f"{some} real images are JPEG files of {size} x {size} px, the size at which they are used. {what} were coded "
        "as the real images are, so that the file format alone does not part them."
    )
