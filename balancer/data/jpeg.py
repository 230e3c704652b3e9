"""JPEG files that were cut and closed again, such as half a file with an end marker.

Decoders fill what is missing with grey, and Pillow does not pass on libjpeg's warning. So two questions are asked:

- Do the scans send every bit of every coefficient? A progressive file that was cut lacks its last scans.
- Is the last scan complete? The picture is decoded once more with further bytes after this scan's own. A decoder skips
  them if the scan is complete, and takes them for pixels if it is not: then the picture changes.

The second decoding is made where the last pixel is the grey that decoders fill in (3 of the 5,856 images of Kermany et
al. 2018, all of them complete), and of progressive files. A file that lacks no more than its last block passes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

FILLED, NEAR = 128, 2  # the grey that decoders fill in, and how far conversions of colour move it
COEFFICIENTS = 64  # of a block
SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames with Huffman coding, which ends exactly where the scan ends
_SCAN, _END, _WITHOUT_BODY = 0xDA, 0xD9, (0x01, 0xD8)
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # stuffed bytes and restarts are data of a scan
# Neither pixels that a scan could end with, nor markers but restarts, at which a decoder would stop.
_MORE = b"".join(bytes((37 * i + 11 * n) % 251 for i in range(96)) + bytes([0xFF, 0xD0 + n]) for n in range(8))


@dataclass
class Structure:
    """What the markers of a file say."""

    frame: int = 0  # marker of the first frame
    lowest_bit: dict[int, list[int | None]] = field(default_factory=dict)  # sent of each coefficient, by component
    scans: int = 0
    end: int = 0  # where the data of the last scan end; 0 without an end marker

    @property
    def is_known(self) -> bool:
        """Return whether the coding is one that these tests understand."""
        return self.frame in (*SEQUENTIAL, _PROGRESSIVE) and self.scans > 0 and self.end > 0

    @property
    def is_all_sent(self) -> bool:
        """Return whether the scans send every bit of every coefficient."""
        return all(bit == 0 for component in self.lowest_bit.values() for bit in component)


def _segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, body and place of each segment of a JPEG file, up to its first end marker."""
    position = 2
    while match := _MARKER.search(content, position):
        marker, position = match[1][0], match.end()
        if marker in _WITHOUT_BODY:
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        yield marker, content[position + 2 : position + length], match.start()
        if marker == _END:
            return
        position += length


def count_scans(content: bytes) -> int:
    """Return how many scans a JPEG file has, whatever its coding; a decoder goes over all pixels for each."""
    return sum(marker == _SCAN for marker, _, _ in _segments(content))


def read_structure(content: bytes) -> Structure:
    """Return what the markers of a JPEG file say, up to its first end marker."""
    structure = Structure()
    for marker, body, start in _segments(content):
        if marker == _END:
            structure.end = start
        elif marker in (*SEQUENTIAL, _PROGRESSIVE) and not structure.frame:
            structure.frame = marker
            structure.lowest_bit = {body[i]: [None] * COEFFICIENTS for i in range(6, 6 + 3 * body[5], 3)}
        elif marker == _SCAN and structure.frame:
            _note_scan(structure, body)
    return structure


def _note_scan(structure: Structure, header: bytes) -> None:
    structure.scans += 1
    components = header[1 : 1 + 2 * header[0] : 2]
    first, last, bits = header[1 + 2 * header[0] :][:3]
    if structure.frame != _PROGRESSIVE:
        first, last, bits = 0, COEFFICIENTS - 1, 0
    for component in components:
        structure.lowest_bit[component][first : last + 1] = [bits & 15] * (last + 1 - first)


def refuse_cut(content: bytes, image: Image.Image, prepare: Callable[[Image.Image], object]) -> None:
    """Refuse a JPEG file that lacks data behind its last byte.

    Args:
        content: of the file.
        image: the file as it was decoded.
        prepare: what was done to the image between opening and decoding.

    Raises:
        OSError: the file was cut and closed again.
    """
    try:
        structure = read_structure(content)
    except (IndexError, KeyError, ValueError) as error:
        raise OSError("its JPEG markers contradict one another") from error
    if not structure.is_known:
        return
    if not structure.is_all_sent:
        raise OSError("a JPEG without its last scans: it was cut, and closed again")
    more = io.BytesIO(content[: structure.end] + _MORE + b"\xff\xd9")
    with Image.open(more) as again:
        prepare(again)
        if again.tobytes() != image.tobytes():
            raise OSError("a JPEG that ends before its picture: it was cut, and closed again")


def may_be_cut(image: Image.Image) -> bool:
    """Return whether a decoded JPEG deserves :func:`refuse_cut`, which takes another decoding."""
    last = image.getpixel((image.width - 1, image.height - 1))
    values = last if isinstance(last, tuple) else (last,)
    return "progressive" in image.info or all(abs((value or 0) - FILLED) <= NEAR for value in values)
