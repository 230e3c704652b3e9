"""PNG files whose compressed data end, in good order, before the picture does.

Pillow refuses data that are cut. Data that end properly after three of 300 rows are read in silence, and all other
rows come out as 0, which is black. So the bytes that the data unpack to are counted and compared with the header.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

SIGNATURE_BYTES, AT_ONCE = 8, 1 << 20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
# Adam7: first column, first row, step of columns, step of rows of each pass (ISO/IEC 15948, 8.2)
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def may_be_short(image: Image.Image) -> bool:
    """Return whether a decoded PNG deserves :func:`refuse_short`: rows that are missing come out as 0."""
    if image.info.get("interlace"):
        return True  # a pass that is missing leaves every other pixel as 0
    last = image.crop((0, image.height - 1, image.width, image.height))
    return not last.getbbox(alpha_only=False)


def refuse_short(content: bytes) -> None:
    """Refuse a PNG file whose data hold fewer rows than its header states.

    Raises:
        OSError: there are fewer.
    """
    chunks = _chunks(content)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", next(chunks)[1])
    bits = depth * _SAMPLES[colour]
    expected = sum(
        _bytes(len(range(x, width, dx)), len(range(y, height, dy)), bits)
        for x, y, dx, dy in (_PASSES if interlaced else ((0, 0, 1, 1),))
    )
    stated = _unpacked(b"".join(body for name, body in chunks if name == b"IDAT"), expected)
    if stated < expected:
        raise OSError(f"a PNG that ends before its picture: its data hold {stated:,} of {expected:,} bytes")


def _bytes(width: int, height: int, bits: int) -> int:
    """Return the bytes of rows of pixels, each after a byte that names its filter; none of an empty pass."""
    return height * (1 + -(-width * bits // 8)) if width else 0


def _unpacked(data: bytes, most: int) -> int:
    """Return how many bytes compressed data unpack to, and at most ``most``; no more is held at once than needed."""
    unpacker, total = zlib.decompressobj(), 0
    while total < most and not unpacker.eof:
        part = unpacker.decompress(data, min(AT_ONCE, most - total))
        if not part and not unpacker.unconsumed_tail:
            break
        total, data = total + len(part), unpacker.unconsumed_tail
    return total


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the body of each chunk of a PNG file."""
    handle = io.BytesIO(content)
    handle.seek(SIGNATURE_BYTES)
    while len(head := handle.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name, handle.read(length)
        handle.seek(4, 1)  # the checksum, which Pillow has compared
