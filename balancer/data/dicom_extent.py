"""Whether a DICOM file holds the pixels that its header claims: by lengths alone, before anything is decoded."""

from __future__ import annotations

import io
import math
import os
import struct
from typing import IO

from PIL import Image
from pydicom import Dataset

from balancer.data.dicom_header import Stored, Unreadable, transfer_syntax

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_TAG = 4  # bytes
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"  # tags between compressed fragments
MOST_ITEMS = 10_000  # that are looked at; no file of one frame has as many
_CUT = "it has no pixel data, or is cut off"


def check_extent(stored: Stored, header: Dataset, handle: IO[bytes]) -> None:
    """Refuse pictures that are too large, and files that hold less than their header claims.

    Args:
        stored: how the samples are stored.
        header: just read, without the pixels.
        handle: where reading the header has left it: at the element of the pixels, if there is one.

    Raises:
        OSError: naming both numbers, where there are two.
    """
    pixels, most = stored.rows * stored.columns, 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if pixels > most:
        raise Unreadable(f"{stored.columns} x {stored.rows} px; at most {most / 1e6:.0f} megapixels are read")
    syntax = transfer_syntax(header)
    if syntax.is_deflated:
        return  # its lengths are known once it is inflated
    implicit, little = header.original_encoding
    begin = handle.tell()
    if not _is_pixel_tag(handle.read(_TAG), little is not False):
        raise Unreadable(_CUT)
    size = handle.seek(0, io.SEEK_END)
    begin += 8 if implicit else 12  # tag, type and length
    if not syntax.is_encapsulated:
        subsampled = 2 / 3 if stored.photometric == "YBR_FULL_422" else 1
        claimed = math.floor(pixels * stored.frames * stored.samples * stored.allocated * subsampled / 8)
        if claimed > size - begin:
            raise Unreadable(
                f"its header claims {claimed:,} bytes of pixels, and {size - begin:,} follow: it is cut off"
            )
    else:
        handle.seek(begin)
        _refuse_cut_fragments(handle, size)


def _is_pixel_tag(tag: bytes, little: bool) -> bool:
    if len(tag) < _TAG:
        return False
    group, element = struct.unpack("<HH" if little else ">HH", tag)
    return group << 16 | element in _PIXEL_TAGS


def _refuse_cut_fragments(handle: IO[bytes], size: int) -> None:
    """Refuse a file whose compressed fragments end before their lengths do; after the table of offsets, one is needed.

    Args:
        handle: behind the header of the pixels' element.
        size: of the file, in bytes.
    """
    items = 0
    while items < MOST_ITEMS and (tag := handle.read(_TAG)) != _END:
        if len(tag) == _TAG and tag != _ITEM:
            return  # not as the standard says; decoding tells whether it can be read
        length = handle.read(_TAG)
        if len(length) < _TAG or handle.seek(int.from_bytes(length, "little"), os.SEEK_CUR) > size:
            raise Unreadable(_CUT)
        items += 1
    if items < 2:
        raise Unreadable(_CUT)
