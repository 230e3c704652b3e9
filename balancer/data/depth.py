"""Samples of more than 8 bits: the range of a set that becomes black to white, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

Array = np.ndarray
Ranges = Mapping[str, float]  # kind of deep samples -> the sample value that becomes 255
DEPTHS = (8, 10, 12, 14, 16)  # bits of the detectors whose samples lie in files of more than 8 bits
DIM = 16  # an image below 1/16 of its set's range has at most 16 of the 256 grey levels
SIXTEEN_BIT = 65535.0
RESCALED = "rescaled"  # kind of DICOM samples that may lie below 0 or are no whole numbers
SAMPLES = "samples"  # key of Image.info of a DICOM file in grey: the function that reads them
BLACK = " black"  # after a kind: the key of the value that becomes 0, where that is not 0 itself


@dataclass(frozen=True)
class Source:
    """What the other images of a set must know of a file."""

    side: int  # px of the shorter side
    kind: str = ""  # how deep samples are stored: "integer", "integer:12" if the file states 12 bits, "float", RESCALED
    peak: float = 0.0  # the largest deep sample
    floor: float = 0.0  # the smallest
    shown: str = ""  # of a DICOM file in grey: "window" or "full", as it was read
    in_colour: bool = False  # stored so, whatever its pixels are
    coloured: bool = False  # truly, of images that were read in colour


@dataclass(frozen=True)
class Samples:
    """A grey image of more than 8 bits a sample, or of a DICOM file."""

    values: Array  # (H, W) float32
    kind: str  # as in Source; empty if the values are grey levels from 0 to 255 already
    inverted: bool = False  # whether low values are bright
    padding: Array | None = None  # (H, W) bool: pixels that are no part of the picture, black
    shown: str = ""  # as in Source


@dataclass(frozen=True)
class Decoding:
    """An image at the working size, and its source."""

    pixels: Array  # (size, size) or (size, size, 3) uint8
    source: Source


def white_level(kind: str, peak: float) -> float:
    """Return the sample value that becomes 255 in images of one kind, for the largest sample among them.

    The value is the end of the smallest usual depth (8, 10, 12, 14 or 16 bits) that holds ``peak``, or of the depth
    that the files state. Floating point samples up to 1 are shares of white. Never the maximum itself: the maximum of
    one image would give each image an exposure of its own.
    """
    stored, _, stated = kind.partition(":")
    if stored == RESCALED:
        return 1.0 if peak <= 0 else 2.0 ** ceil(log2(peak)) if peak <= 1 else 2.0 ** ceil(log2(peak + 1)) - 1
    if stored == "float" and peak <= 1:
        return 1.0
    depths = (int(stated), 16) if stated else DEPTHS
    return float(2 ** next(bits for bits in depths if peak <= 2**bits - 1) - 1)


def black_level(floor: float) -> float:
    """Return the sample value that becomes 0: 0 itself, or the power of two below 0 that lies below all samples."""
    return -(2.0 ** ceil(log2(-floor))) if floor < 0 else 0.0


def shared_ranges(sources: Sequence[Source]) -> dict[str, float]:
    """Return the range of each kind of deep samples, the same for all images of a set; empty without deep images."""
    kinds = sorted({s.kind for s in sources if s.kind})
    ranges = {kind: white_level(kind, max(s.peak for s in sources if s.kind == kind)) for kind in kinds}
    blacks = {kind + BLACK: black_level(min(s.floor for s in sources if s.kind == kind)) for kind in kinds}
    return ranges | {key: black for key, black in blacks.items() if black}


def ranges_within(fixed: Ranges, kinds: Ranges) -> dict[str, float]:
    """Return the ranges among ``fixed`` of the kinds that a set has."""
    return {key: value for key, value in fixed.items() if key.removesuffix(BLACK) in kinds}


def is_off_range(source: Source, ranges: Ranges) -> bool:
    """Return whether an image decoded alone must be decoded again with the range of its set."""
    return bool(source.kind) and limits(source, {}) != limits(source, ranges)


def limits(source: Source, ranges: Ranges) -> tuple[float, float]:
    """Return the sample values that become 0 and 255, by the ranges of a set or, without one, by the image alone."""
    if white := ranges.get(source.kind):
        return ranges.get(source.kind + BLACK, 0.0), white
    return black_level(source.floor), white_level(source.kind, source.peak)


def is_dim(source: Source, ranges: Ranges) -> bool:
    """Return whether an image comes out nearly black in the range of its set."""
    return bool(source.kind) and source.peak * DIM <= ranges[source.kind]
