"""From the samples of a DICOM file to grey levels: rescaled, then in the window that the file states, or in full.

The order is that of the standard (PS3.3 C.11 and C.7.6.3): stored samples, modality (slope and intercept, or a table),
VOI (window, or a table), then black and white by the photometric interpretation. The range of samples without a window
depends on the other images of a set and is left to :mod:`balancer.data.depth`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from balancer.data.depth import RESCALED, Samples
from balancer.data.dicom_files import DicomRules
from balancer.data.dicom_header import Stored, Unreadable, decimal, functional, number

Array = np.ndarray


@dataclass(frozen=True)
class Window:
    """A range of values and how it becomes 0 to 1: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID`` (PS3.3 C.11.2.1)."""

    centre: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: Array) -> Array:
        """Return values of any range as shares of white."""
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -700, 700))))
        centre, width = (
            (self.centre, self.width) if self.function == "LINEAR_EXACT" else (self.centre - 0.5, self.width - 1)
        )
        if width == 0:
            return np.where(values > centre, 1.0, 0.0)
        return np.clip((values - centre) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class LookUp:
    """A table of values (PS3.3 C.11.1 and C.11.2): the first entry is that of the value ``first`` and of all below."""

    first: int
    bits: int  # of an entry
    entries: Array

    def apply(self, values: Array) -> Array:
        """Return the entry of each value."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(self.entries[index], dtype=np.float64)


def grey_levels(values: Array, ds: Dataset, stored: Stored, rules: DicomRules) -> Samples | Array:
    """Return the samples of a frame in the window of the rules, or in full; 8 bits in full are grey levels uint8.

    Raises:
        OSError: the window shows nothing.
    """
    padding = _padding(values, ds, stored)
    table, kind = _look_up(ds, "ModalityLUTSequence"), modality_kind(ds, stored)
    slope, intercept = _rescale(ds)
    inverted, window = stored.photometric == "MONOCHROME1", chosen_window(ds, rules)
    bits = stored.bits if table is None else table.bits

    if window is None and table is None and kind.startswith("integer"):
        return Samples(values.astype(np.float32), kind, inverted, padding, "full")

    def level(samples: Array) -> Array:
        samples = samples.astype(np.float64)
        samples = samples * slope + intercept if table is None else table.apply(samples)
        if window is not None:
            white = 2**window.bits - 1 if isinstance(window, LookUp) else 1
            return np.clip(window.apply(samples) * (255 / white), 0, 255)
        return samples if kind else np.rint(samples * (255 / (2**bits - 1)))

    levels = _of_each(values, level)
    if window is not None:
        if np.ptp(levels) == 0 < np.ptp(values):
            raise Unreadable("its window shows one grey level alone; --set data.window=full reads all samples")
        return Samples(levels, "", inverted, padding, "window")
    if kind:
        return Samples(levels, kind, inverted, padding, "full")
    levels = 255 - levels if inverted else levels
    return np.where(False if padding is None else padding, 0, levels).astype(np.uint8)


def _of_each(values: Array, level: Callable[[Array], Array]) -> Array:
    """Return the level of each sample, float32; of up to 16 bits it is computed once for each value that there is."""
    if values.dtype.kind in "iu" and 256**values.dtype.itemsize <= values.size:
        bits = np.dtype(values.dtype.str.replace("i", "u"))  # a sign is a bit like others, when it comes to looking up
        possible = np.arange(256**bits.itemsize).astype(bits)
        return level(possible.view(values.dtype)).astype(np.float32)[values.view(bits)]
    return level(values).astype(np.float32)


def modality_kind(header: Dataset, stored: Stored) -> str:
    """Return how deep rescaled samples are, as :class:`~balancer.data.depth.Source` says; empty for 8 bits or less."""
    table = _look_up(header, "ModalityLUTSequence")
    bits = stored.bits if table is None else table.bits
    signed = stored.signed and table is None
    if signed or bits > 16 or (table is None and _rescale(header) != (1, 0)):
        return RESCALED
    return "" if bits <= 8 else "integer" if bits == 16 else f"integer:{bits}"


def _padding(values: Array, ds: Dataset, stored: Stored) -> Array | None:
    """Return which pixels fill the space around the picture; None if there are none."""
    if ds.get("PixelPaddingValue") in (None, ""):
        return None
    first = number(ds, "PixelPaddingValue")
    last = number(ds, "PixelPaddingRangeLimit", first)
    if stored.signed:  # some programs write the bits of a negative number without its sign
        first, last = (n - (1 << stored.allocated) if n >= 1 << (stored.allocated - 1) else n for n in (first, last))
    mask = (values >= min(first, last)) & (values <= max(first, last))
    return mask if mask.any() else None


def _rescale(header: Dataset) -> tuple[float, float]:
    """Return slope and intercept; those that are missing, or no numbers, change nothing."""
    item = functional(header, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = decimal(item, "RescaleSlope"), decimal(item, "RescaleIntercept")
    return slope or 1.0, intercept or 0.0


def chosen_window(header: Dataset, rules: DicomRules) -> Window | LookUp | None:
    """Return the window of the rules: the file's table, else the first of its windows; None to read in full."""
    if rules.window == "full":
        return None
    if rules.window != "auto":
        fixed = [float(number) for number in rules.window.split("/")]
        return Window(fixed[0], fixed[1], "LINEAR_EXACT")
    table = _look_up(header, "VOILUTSequence")
    if table is not None:
        return table
    item = functional(header, "FrameVOILUTSequence", "WindowCenter")
    centre, width = decimal(item, "WindowCenter"), decimal(item, "WindowWidth")
    function = str(item.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    return Window(centre, width, function) if width >= 1 or (width > 0 and function != "LINEAR") else None


def _look_up(header: Dataset, keyword: str) -> LookUp | None:
    """Return the first table of a sequence; None without one that can be read."""
    items = header.get(keyword) or []
    if not items or "LUTDescriptor" not in items[0] or "LUTData" not in items[0]:
        return None
    n, first, bits = (int(number) for number in items[0].LUTDescriptor)
    data, n = items[0].LUTData, n or 1 << 16
    if isinstance(data, bytes):
        little = header.original_encoding[1] is not False
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * n else "<u2" if little else ">u2")[:n]
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    if len(entries) * 2 in (n, n + 1):  # entries of 8 bits, two in a word
        entries = np.stack([entries & 0xFF, entries >> 8], axis=1).ravel()[:n]
    if not len(entries) or not 1 <= bits <= 16:
        return None
    if first >= 1 << 15 and header.get("PixelRepresentation") == 1:
        first -= 1 << 16
    return LookUp(first, bits, entries)
