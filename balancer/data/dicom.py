"""Pictures in DICOM files, as images of Pillow; imported only where there is such a file, since it needs an extra."""

from __future__ import annotations

import io
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.utils import _get_jpg_parameters
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from balancer.data.depth import SAMPLES, Samples
from balancer.data.dicom_codecs import DECODED, NAME
from balancer.data.dicom_extent import check_extent
from balancer.data.dicom_files import BITS, FORMAT, DicomRules
from balancer.data.dicom_header import (
    DESCRIPTION,
    GREY,
    NO_CODING,
    PIXELS,
    Stored,
    Unreadable,
    described,
    own_words,
    read_elements,
    transfer_syntax,
)
from balancer.data.dicom_levels import chosen_window, grey_levels, modality_kind
from balancer.data.jpeg import FILLED, NEAR, SEQUENTIAL, read_structure, refuse_cut

Array = np.ndarray
# One decoder for each coding, so that an image has the same grey levels wherever the extra is installed.
_SEQUENTIAL = (JPEGBaseline8Bit, JPEGExtended12Bit)
_DECODERS: dict[UID, str] = {
    **dict.fromkeys(DECODED, NAME),
    JPEGBaseline8Bit: "pillow",
    **dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg"),
    RLELossless: "pydicom",
}


class DicomImage(Image.Image):
    """A DICOM file as an image of Pillow: its size and mode by the header, its pixels once they are asked for.

    The mode is ``RGB`` for colours, ``L`` for 8 bits in grey, else ``F``; then ``info`` has the function that reads
    the :class:`~balancer.data.depth.Samples`, which need the range of their set.
    """

    format = FORMAT
    format_description = FORMAT

    def __init__(self, handle: IO[bytes], rules: DicomRules) -> None:
        """Read the header.

        Raises:
            OSError: there is no picture that can be read, in one line.
        """
        super().__init__()
        self._handle, self._rules = handle, rules
        with own_words("its DICOM header cannot be read: it is damaged"):
            header = read_elements(handle, DESCRIPTION)
            self._stored = described(header)
            check_extent(self._stored, header, handle)
            if self._stored.frames > 1 and rules.frame != "first":
                raise Unreadable(f"{self._stored.frames} frames in one file; expected one, or --set data.frame=first")
            self._mode = self._mode_of(header)
        self._size = self._stored.columns, self._stored.rows
        self.info[BITS] = self._stored.bits
        if self._mode == "F":
            self.info[SAMPLES] = partial(read_pixels, handle, self._stored, rules)

    def _mode_of(self, header: Dataset) -> str:
        if self._stored.photometric not in GREY:
            return "RGB"
        plain = not modality_kind(header, self._stored) and chosen_window(header, self._rules) is None
        return "L" if plain else "F"

    def load(self) -> Any:
        """Read the pixels, once.

        Raises:
            OSError: they cannot be read.
        """
        if self._im is None:
            pixels = read_pixels(self._handle, self._stored, self._rules)
            self.im = Image.fromarray(pixels.values if isinstance(pixels, Samples) else pixels).im
        return super().load()


def read_pixels(handle: IO[bytes], stored: Stored, rules: DicomRules) -> Samples | Array:
    """Return the first frame: samples in grey, or an array uint8 (H, W) of 8 bits in grey or (H, W, 3) of colours.

    Raises:
        OSError: the pixels are missing, cut off, damaged, or coded in a way that is not read.
    """
    ds = read_elements(handle, DESCRIPTION, pixels=True)
    if not any(keyword in ds for keyword in PIXELS):
        raise Unreadable("it has no pixel data, or is cut off")
    with own_words("its pixel data cannot be decoded: they are damaged, cut off or of an unknown coding"):
        values, photometric = _decoded(ds, stored)
        grey = stored.photometric in GREY
        pixels = grey_levels(values, ds, stored, rules) if grey else _coloured(values, photometric, ds, stored)
    return pixels


def _decoded(ds: Dataset, stored: Stored) -> tuple[Array, str]:
    """Return the first frame as stored, with the sign of its samples, and the photometric interpretation it has now."""
    syntax = transfer_syntax(ds)
    ds.file_meta.TransferSyntaxUID = syntax
    with own_words(NO_CODING):
        decoder = get_decoder(syntax)
    options: dict[str, Any] = {}
    if syntax.is_encapsulated:
        plugin = _DECODERS.get(syntax)
        if plugin not in decoder.available_plugins:
            raise Unreadable(NO_CODING)
        options["decoding_plugin"] = plugin
        frame = get_frame(ds.PixelData, 0, number_of_frames=stored.frames)
        _check_frame(frame, syntax, stored)
    elif stored.shift:
        options["correct_unused_bits"] = False
    pixels, facts = decoder.as_array(ds, index=0, **options)
    if syntax in _SEQUENTIAL and np.abs(pixels[-1, -1].astype(int) - FILLED).max() <= NEAR:
        with Image.open(io.BytesIO(frame)) as image:
            image.load()
            refuse_cut(frame, image, lambda _: None)
    if pixels.dtype.kind in "iu" and stored.shift and not syntax.is_encapsulated:
        pixels = _shifted(pixels, stored)
    return pixels, str(facts["photometric_interpretation"])


def _check_frame(frame: bytes, syntax: UID, stored: Stored) -> None:
    """Refuse a compressed frame that is larger than the header says, before it takes memory."""
    if syntax in JPEG2000TransferSyntaxes:
        at = frame.find(b"\xff\x4f\xff\x51")
        width, height, left, top = (int.from_bytes(frame[at + 8 + 4 * k : at + 12 + 4 * k], "big") for k in range(4))
        size = (width - left, height - top) if at >= 0 else (0, 0)
    elif syntax == RLELossless:
        return
    else:
        facts = _get_jpg_parameters(frame)
        if syntax in _SEQUENTIAL and read_structure(frame).frame not in SEQUENTIAL:
            raise Unreadable("its compressed data are of another kind of JPEG than its header says")
        size = facts.get("width", 0), facts.get("height", 0)
    if size != (stored.columns, stored.rows):
        raise Unreadable(
            f"its header says {stored.columns} x {stored.rows} px, its compressed data {size[0]} x {size[1]}"
        )


def _shifted(pixels: Array, stored: Stored) -> Array:
    """Return samples whose lowest bit is not the lowest of their cell, and whose other bits may hold anything."""
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}") >> stored.shift & (2**stored.bits - 1)
    values = unsigned.astype(np.int64)
    return values - ((values >> (stored.bits - 1)) << stored.bits) if stored.signed else values


def _coloured(values: Array, photometric: str, ds: Dataset, stored: Stored) -> Array:
    bits = stored.bits
    if stored.photometric == "PALETTE COLOR":
        values = apply_color_lut(values, ds)
        bits = 8 * values.dtype.itemsize
    elif photometric not in ("RGB", "YBR_ICT", "YBR_RCT"):
        raise Unreadable(f"its colours are stored as {stored.photometric} of {bits} bits, which is not read")
    levels = values[..., :3].astype(np.float32) * (255 / (2**bits - 1))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
