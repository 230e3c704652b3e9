"""Uploads that somebody could send to harm `classifier serve`, each with the HTTP status that it should get."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from PIL import Image

FORM = "multipart/form-data; boundary=x"
PLAIN = "application/octet-stream"
Upload = tuple[bytes, str]  # content and its type
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: int, extra: bytes = b"") -> bytes:
    """Return a grey PNG whose header claims a size; its data are ``rows`` black rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(rows * (width + 1)), 9)
    return PNG_HEAD + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def jpeg(side: int = 64, scans: int = 0, **options: object) -> bytes:
    """Return a progressive JPEG, whose last scan stands there ``scans`` times more."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True, **options)
    content, end = buffer.getvalue(), b"\xff\xd9"
    last = content[content.rfind(b"\xff\xda") : -len(end)]
    return content[: -len(end)] + last * scans + end


def tiff(directories: int) -> bytes:
    """Return a TIFF of 40 x 30 px with many directories: pictures that all share their pixels."""
    tags = ((256, 40), (257, 30), (258, 8), (259, 1), (262, 1), (273, 8), (278, 30), (279, 1200))
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start, step = 8 + 1200, len(body) + 4
    places = [start + step * (i + 1) for i in range(directories - 1)] + [0]
    return b"II*\0" + struct.pack("<I", start) + bytes(1200) + b"".join(body + struct.pack("<I", p) for p in places)


def gif(frames: int) -> bytes:
    """Return a GIF of 40 x 30 px with many frames."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 40, 30, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 40, 30, 0x80, 0, 0) + bytes(3) + b"\xff" * 3 + frame * frames + b";"


def form(content: bytes, head: str = 'name="file"; filename="../../etc/cron.d/x"', times: int = 1) -> bytes:
    """Return a form with a part, or with many."""
    part = f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
    return part * times + b"--x--\r\n"


def texts(count: int) -> bytes:
    """Return compressed text chunks of a PNG, each of 1 MB once it is unpacked."""
    return b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6), 9)) for _ in range(count))


KINDS: dict[str, tuple[Callable[[], Upload], int]] = {
    "nothing": (lambda: (b"", PLAIN), 422),
    "text": (lambda: (b"name,age\nsomebody,4\n", "image/png"), 415),
    "zeros": (lambda: (bytes(100_000), PLAIN), 415),
    "1 x 1": (lambda: (png(1, 1, 1), PLAIN), 422),
    "cut": (lambda: (jpeg()[:-100], PLAIN), 422),
    "900 megapixels": (lambda: (png(30_000, 30_000, 1), PLAIN), 413),
    "144 megapixels in .6 MB": (lambda: (png(12_000, 12_000, 12_000), PLAIN), 413),
    "text of 100 MB in .1 MB": (lambda: (png(40, 30, 30, texts(100)), PLAIN), 422),
    "profile of 100 MB": (
        lambda: (png(40, 30, 30, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8), 9))), PLAIN),
        422,
    ),
    "PNG of 100,000 chunks": (lambda: (png(40, 30, 30, 100_000 * chunk(b"abCd")), PLAIN), 422),
    "animated PNG": (lambda: (png(40, 30, 30, chunk(b"acTL", struct.pack(">II", 10**6, 0))), PLAIN), 422),
    "JPEG of 2,000 scans": (lambda: (jpeg(2000, 2000), PLAIN), 422),
    "TIFF of 50,000 pictures": (lambda: (tiff(50_000), PLAIN), 422),
    "GIF of 200,000 pictures": (lambda: (gif(200_000), PLAIN), 422),
    "PGM of 900 megapixels": (lambda: (b"P5 30000 30000 255\n" + bytes(100), PLAIN), 413),
    "40 MB": (lambda: (bytes(40_000_000), PLAIN), 413),
    "form of 10,000 files": (lambda: (form(png(40, 30, 30), times=10_000), FORM), 422),
    "form of 100,000 fields": (lambda: (form(b"", 'name="a"', 100_000), FORM), 422),
    "form without a file": (lambda: (form(b"text", 'name="file"'), FORM), 422),
    "form that is none": (lambda: (b"no form", FORM), 422),
    "form in a charset that is none": (lambda: (form(b"\xff", 'name="a"'), FORM + "; charset=undefined"), 422),
    "form with a name of 1 MB": (lambda: (form(b"x", f'name="file"; filename="{"a" * 10**6}"'), FORM), 422),
    "sound": (lambda: (png(40, 30, 30), PLAIN), 200),
    "sound in a form": (lambda: (form(png(40, 30, 30)), FORM), 200),
}


@cache
def upload(kind: str) -> Upload:
    """Return an upload of a kind."""
    return KINDS[kind][0]()


def fuzzed(seed: int) -> Iterator[Upload]:
    """Yield sound images of several formats in which bytes were changed, cut or doubled at random, without end."""
    rng = random.Random(seed)
    picture, sound = Image.linear_gradient("L").resize((200, 150)), []
    for name in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"):
        buffer = io.BytesIO()
        picture.save(buffer, name)
        sound.append(buffer.getvalue())
    sound.append(jpeg(200))
    while True:
        content = bytearray(rng.choice(sound))
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(min(len(content), 10 ** rng.randint(1, 6)))] = rng.randrange(256)
        yield bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]), PLAIN
