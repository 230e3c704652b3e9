"""Headers of DICOM files: the elements that describe the samples, read without a trace of the others.

A header names a patient. So nothing of a header is logged or shown: pydicom's own messages are switched off,
since they quote what they read, and every error here has words of its own.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from pydicom import Dataset, config, dcmread
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from balancer.data.dicom_files import START

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
MOST_INFLATED = 1 << 28  # bytes that a deflated file may hold; they are in memory at once
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NO_HEADER = "its DICOM header cannot be read: it is damaged, cut off or encrypted"
NO_CODING = "its pixel data have a coding that is not read; convert the file to an uncompressed one"
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
_PALETTES = tuple(
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
# The elements that describe samples. The others, the patient's above all, are not read with them.
DESCRIPTION = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *_PALETTES),
)


def _silence() -> None:
    """Switch off the messages of the packages that read DICOM: they quote headers."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    config.settings.reading_validation_mode = config.IGNORE


_silence()


class Unreadable(OSError):
    """Why a file is not read, in words that quote nothing of its header."""


@contextmanager
def own_words(words: str) -> Iterator[None]:
    """Give errors of pydicom and of decoders our own words, and its warnings none; errors of the disk keep theirs."""
    # Filters and not catch_warnings, which is not safe in threads. The second is for warnings whose level points here.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    warnings.filterwarnings("ignore", module=r"balancer\.data\.dicom")
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # of many kinds, and their texts quote the header
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(words) from None


@dataclass(frozen=True)
class Stored:
    """How the samples of a file are stored."""

    rows: int
    columns: int
    samples: int  # a pixel
    bits: int  # of each
    allocated: int
    shift: int  # unused bits below the lowest of a sample
    signed: bool
    frames: int
    photometric: str


class _Within:
    """A file that is never asked for more than it holds: Python would reserve what a damaged length claims."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.size = handle.seek(0, io.SEEK_END)
        self.seek, self.tell = handle.seek, handle.tell
        self.seek(0)

    def read(self, n: int = -1) -> bytes:
        return self._handle.read(min(n, self.size) if n >= 0 else -1)


def read_elements(handle: IO[bytes], keywords: Sequence[str], pixels: bool = False) -> Dataset:
    """Return some elements of a DICOM file, and its pixels if they are wanted.

    Raises:
        OSError: this is no DICOM file, or one that is damaged or encrypted.
    """
    _refuse_inflated(handle)
    wanted = [*keywords, *(PIXELS if pixels else ())]
    file: Any = _Within(handle)
    with own_words(_NO_HEADER):
        ds = dcmread(file, stop_before_pixels=not pixels, force=True, specific_tags=wanted)
    return ds


def _refuse_inflated(handle: IO[bytes]) -> None:
    """Refuse a deflated file that holds more than any picture needs."""
    handle.seek(0)
    head = handle.read(4096)
    if _DEFLATED not in head:
        return
    if head[START : START + 4] != b"\x02\x00\x00\x00":  # the length of the group that is not deflated
        raise Unreadable("its DICOM header cannot be read: it is deflated, and lacks the length of its first group")
    handle.seek(START + 12 + int.from_bytes(head[START + 8 : START + 12], "little"))
    inflater, n = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with own_words("its deflated content is damaged"):
        while chunk := inflater.unconsumed_tail or handle.read(1 << 20):
            n += len(inflater.decompress(chunk, 1 << 24))
            if n > MOST_INFLATED:
                raise Unreadable(f"its deflated content has more than {MOST_INFLATED >> 20} MB; store it undeflated")


def described(header: Dataset) -> Stored:
    """Return how the samples are stored, by the header.

    Raises:
        OSError: the header describes no picture that can be read.
    """
    rows, columns = number(header, "Rows"), number(header, "Columns")
    if not rows or not columns:
        raise Unreadable("it holds no picture")
    photometric = str(header.get("PhotometricInterpretation") or "").strip().upper()
    samples, allocated = number(header, "SamplesPerPixel", 1), number(header, "BitsAllocated", 16)
    bits = number(header, "BitsStored", allocated)
    if photometric not in (*GREY, *COLOURS):
        known = photometric in PhotometricInterpretation.__members__.values()
        raise Unreadable(f"its colours are stored as {photometric if known else 'nothing known'}, which is not read")
    if samples != (1 if photometric in (*GREY, "PALETTE COLOR") else 3) or not 1 <= bits <= allocated <= 64:
        raise Unreadable(f"its header contradicts itself: {samples} samples a pixel of {bits} bits in {allocated}")
    shift = number(header, "HighBit", bits - 1) - bits + 1
    signed = number(header, "PixelRepresentation") == 1
    frames = max(1, number(header, "NumberOfFrames", 1))
    shift = shift if 0 < shift <= allocated - bits else 0
    return Stored(rows, columns, samples, bits, allocated, shift, signed, frames, photometric)


def transfer_syntax(header: Dataset) -> UID:
    """Return how a file is coded: as it states, else as it was read."""
    stated = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    if stated:
        syntax = UID(str(stated))
        if not syntax.is_transfer_syntax:
            raise Unreadable(NO_CODING)
        return syntax
    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def functional(header: Dataset, sequence: str, keyword: str) -> Dataset:
    """Return what holds an element: the header, or the groups that enhanced multi-frame files have for a frame."""
    if keyword in header:
        return header
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (header.get(groups) or [])[:1]:
            for item in (group.get(sequence) or [])[:1]:
                return item
    return header


def number(header: Dataset, keyword: str, default: int = 0) -> int:
    """Return a whole number of the header, or the default if there is none that can be read."""
    try:
        value = header.get(keyword)
        return default if value in (None, "") else int(value)
    except Exception:
        return default


def decimal(item: Dataset, keyword: str) -> float | None:
    """Return the first number of an element; None if there is none."""
    try:
        value = item.get(keyword)
        value = value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
        number = float(value)
    except Exception:
        return None
    return number if math.isfinite(number) else None
