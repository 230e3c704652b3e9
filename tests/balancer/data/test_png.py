"""PNG files whose data end before the picture are refused, whatever their pixels; complete ones never are."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from balancer.data.images import decode_image, read_picture

RNG = np.random.default_rng(0)
WIDTH, HEIGHT = 37, 30
# Colour type and depth of each kind, and the bytes of a row
KINDS = {
    "grey": (0, 8, WIDTH),
    "grey of 1 bit": (0, 1, -(-WIDTH // 8)),
    "grey of 16 bits": (0, 16, 2 * WIDTH),
    "colour": (2, 8, 3 * WIDTH),
    "grey with alpha": (4, 8, 2 * WIDTH),
    "colour with alpha": (6, 8, 4 * WIDTH),
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def coded(kind: str, rows: int, black: bool = False) -> bytes:
    """A file by the standard alone (ISO/IEC 15948): a header of HEIGHT rows, and data of some of them."""
    colour, depth, row = KINDS[kind]
    pixels = np.zeros((rows, row), np.uint8) if black else RNG.integers(128, 256, (rows, row), dtype=np.uint8)
    data = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    half = len(packed := zlib.compress(data)) // 2
    parts = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, HEIGHT // 2, HEIGHT - 1])
def test_missing_rows(kind: str, rows: int, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(coded(kind, rows))
    with pytest.raises(OSError, match="ends before its picture"):
        decode_image(file, 16, "squash")
    with pytest.raises(OSError, match="ends before its picture"):
        decode_image(io.BytesIO(file.read_bytes()), 16, "squash")
    with pytest.raises(OSError, match="ends before its picture"):
        read_picture(file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("black", [False, True])
def test_complete_files(kind: str, black: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(coded(kind, HEIGHT, black))
    assert decode_image(file, 16, "squash").pixels.any() != black


@pytest.mark.parametrize(("width", "height"), [(11, 13), (8, 9), (9, 8), (37, 30)])
@pytest.mark.parametrize("missing", [0, 1])
def test_interlaced(width: int, height: int, missing: int, tmp_path: Path) -> None:
    """Adam7 by the pixels of its 8 x 8 tile: pass k holds those that the standard's figure numbers k."""
    rows = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")
    tile = np.array([list(map(int, row)) for row in rows])
    number = np.tile(tile, (-(-height // 8), -(-width // 8)))[:height, :width]
    pixels = RNG.integers(1, 256, (height, width), dtype=np.uint8)
    lines = []
    for k in range(1, 8):
        for y in range(height):
            if (row := pixels[y][number[y] == k]).size:
                lines.append(b"\0" + row.tobytes())
    data = b"".join(lines[: len(lines) - missing])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    file = tmp_path / "a.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )
    if missing:
        with pytest.raises(OSError, match="ends before its picture"):
            read_picture(file)
    else:
        assert np.array_equal(np.asarray(read_picture(file)), pixels)
