"""What somebody may send, and how it is read: in memory alone, within limits, whatever its name.

Size is checked while the bytes arrive, the kind and the pixels before anything is decoded. Nothing here writes to disk
or to the log: an upload is a patient's image, and its name may be a patient's name.
"""

from __future__ import annotations

import asyncio
import io
import logging
import warnings
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from balancer.data.images import SMALLEST, SNIFFED
from classifier.serving.limits import MEGA, Limits

ON_THEIR_SIDE = (5, 6, 7, 8)  # orientations by which a viewer turns the picture by 90 degrees
DROPPED = 4  # limits' worth of bytes that are read and dropped, so that a client gets to read why it was refused
FORMATS = ", ".join(name for name in SNIFFED if name != "PPM")
logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)  # it would log bytes of the upload


class Refused(Exception):
    """Raised when a request cannot be answered: an HTTP status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


@dataclass(frozen=True)
class Picture:
    """What the header of an image file says; width and height as a viewer shows the picture."""

    format: str
    width: int
    height: int


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Return the image of a request: its body, or the only file of a form.

    Raises:
        Refused: 408, 413 or 422.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == "multipart/form-data":
                return await _file_of_form(request, limits)
            return b"".join([chunk async for chunk in _within(request, limits)])
    except TimeoutError as error:
        raise Refused(408, f"the upload took longer than {limits.seconds:g} seconds; send it again") from error


async def _within(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request; what lies beyond the limit is read and dropped before it is refused."""
    line = f"the upload is larger than {limits.megabytes:g} MB; send a smaller image"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > DROPPED * limits.most_bytes:
        raise Refused(413, line)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > DROPPED * limits.most_bytes:
            break
        if received <= limits.most_bytes:
            yield chunk
    if received > limits.most_bytes:
        raise Refused(413, line)


class _InMemory(MultiPartParser):
    """Starlette's parser of forms, which would write files above 1 MB to disk; the limit on the body bounds memory."""

    spool_max_size = 2**62


async def _file_of_form(request: Request, limits: Limits) -> bytes:
    """Return the content of the only file of a form; its name and stated type are not looked at."""
    try:
        form = await _InMemory(request.headers, _within(request, limits), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise Refused(422, "the form cannot be read; send one image as a file, such as curl -F file=@...") from error
    try:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                return await value.read()
    finally:
        await form.close()
    raise Refused(422, "the form holds no file; send one image as a file, such as curl -F file=@...")


def examine(content: bytes, limits: Limits) -> Picture:
    """Return what an image file's header says; its pixels are not decoded.

    Raises:
        Refused: 413 if it has too many pixels, 415 if it is no image, 422 if it is empty, tiny or an animation.
    """
    if not content:
        raise Refused(422, "the upload is empty (0 bytes); send an image")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit here is lower
    try:
        with Image.open(io.BytesIO(content), formats=SNIFFED) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in ON_THEIR_SIDE:
                width, height = height, width
            several = bool(getattr(image, "is_animated", False))
            picture = Picture(str(image.format), width, height)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more than 178 megapixels", limits) from error
    except UnidentifiedImageError as error:
        raise Refused(415, f"this is not an image, whatever its name says; send one of {FORMATS}") from error
    except Exception as error:  # Pillow raises many kinds for what is damaged
        raise Refused(422, "the image is damaged: its header cannot be read; export it again") from error
    if width * height > limits.megapixels * MEGA:
        raise _too_many_pixels(f"{width} x {height} pixels", limits)
    if min(width, height) < SMALLEST:
        raise Refused(422, f"the image has {width} x {height} pixels; expected {SMALLEST} or more a side")
    if several:
        raise Refused(422, "the file holds several pictures; send one")
    return picture


def _too_many_pixels(got: str, limits: Limits) -> Refused:
    return Refused(413, f"the image has {got}; at most {limits.megapixels:g} megapixels are read: send a smaller one")
