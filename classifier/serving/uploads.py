"""What somebody may send, and how it is read: in memory alone, within limits, whatever its name.

Size is checked while the bytes arrive, the kind and the pixels before anything is decoded. Nothing here writes to disk
or to the log: an upload is a patient's image, and its name may be a patient's name.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect, Request

from balancer.data import dicom_files
from balancer.data.dicom_files import DicomRules
from balancer.data.images import SMALLEST, SNIFFED, open_image
from balancer.data.jpeg import count_scans
from classifier.serving.limits import MEGA, Limits

ON_THEIR_SIDE = (5, 6, 7, 8)  # orientations by which a viewer turns the picture by 90 degrees
DROPPED = 4  # limits' worth of bytes that are read and dropped, so that a client gets to read why it was refused
LIGHT = 2**18  # bytes that any upload may hold; for more it needs a place, which slow clients would else take
MOST_CHUNKS = 20_000  # of a PNG; each costs a step of Python, and programs write 8 kB or more into one
MOST_SCANS = 64  # of a JPEG; each costs a pass over all its pixels, and programs write 20 at most
FORMATS = ", ".join(name for name in (*SNIFFED, dicom_files.FORMAT) if name != "PPM")
NeedPlace = Callable[[], Awaitable[object]]  # waits until a large upload may be held in memory
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


async def read_upload(request: Request, limits: Limits, need_place: NeedPlace) -> bytes:
    """Return the image of a request: its body, or the only file of a form.

    Args:
        request: whose body is read.
        limits: of the body.
        need_place: awaited once the body is larger than :data:`LIGHT`.

    Raises:
        Refused: 408, 413 or 422.
        ClientDisconnect: the client went away.
    """
    body = _within(request, limits, need_place)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _file_of_form(request, body)
    return b"".join([chunk async for chunk in body])


async def _paced(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request as it arrives; a client that sends too slowly is refused.

    Only the time that the client takes counts: it may wait long for a place.
    """
    stream, received, waited = request.stream(), 0, 0.0
    while True:
        begin = time.monotonic()
        try:
            async with asyncio.timeout(limits.seconds_for(received) - waited):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise Refused(408, f"the upload is too slow, or took {limits.seconds:g} seconds; send it again") from error
        if chunk is None:
            return
        waited += time.monotonic() - begin
        received += len(chunk)
        yield chunk


async def _within(request: Request, limits: Limits, need_place: NeedPlace) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request; what lies beyond the limit is read and dropped before it is refused."""
    line = f"the upload is larger than {limits.megabytes:g} MB; send a smaller image"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > DROPPED * limits.most_bytes:
        raise Refused(413, line)
    received = 0
    async for chunk in _paced(request, limits):
        if received <= LIGHT < received + len(chunk):
            await need_place()
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


async def _file_of_form(request: Request, body: AsyncGenerator[bytes, None]) -> bytes:
    """Return the content of the only file of a form; its name and stated type are not looked at."""
    try:
        form = await _InMemory(request.headers, body, max_files=1, max_fields=8).parse()
    except (Refused, ClientDisconnect, MemoryError):
        raise
    except Exception as error:  # MultiPartException, and what a strange charset makes Python raise
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
    if _has_too_many_chunks(content):
        raise Refused(422, f"the image is a PNG of more than {MOST_CHUNKS:,} chunks; export it again")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit here is lower
    if dicom_files.is_dicom(content[: dicom_files.START]):
        return _examine_dicom(content, limits)
    try:
        with Image.open(io.BytesIO(content), formats=SNIFFED) as image:
            width, height = image.size
            if width * height > limits.megapixels * MEGA:  # before getexif, which decodes a PNG
                raise _too_many_pixels(f"{width} x {height} pixels", limits)
            if image.format in ("JPEG", "MPO") and count_scans(content) > MOST_SCANS:
                raise Refused(422, f"the image is a JPEG of more than {MOST_SCANS} scans; export it again")
            if image.getexif().get(ExifTags.Base.Orientation) in ON_THEIR_SIDE:
                width, height = height, width
            several = bool(getattr(image, "is_animated", False))
            picture = Picture(str(image.format), width, height)
    except (Refused, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more than 178 megapixels", limits) from error
    except UnidentifiedImageError as error:
        raise Refused(415, f"this is not an image, whatever its name says; send one of {FORMATS}") from error
    except Exception as error:  # Pillow raises many kinds for what is damaged
        raise Refused(422, "the image is damaged: its header cannot be read; export it again") from error
    if min(width, height) < SMALLEST:
        raise Refused(422, f"the image has {width} x {height} pixels; expected {SMALLEST} or more a side")
    if several:
        raise Refused(422, "the file holds several pictures; send one")
    return picture


def _has_too_many_chunks(content: bytes) -> bool:
    """Return whether a PNG file has more than :data:`MOST_CHUNKS` chunks; False for other files."""
    place = 8
    if content[:place] != b"\x89PNG\r\n\x1a\n":
        return False
    for _ in range(MOST_CHUNKS):
        if place >= len(content):
            return False
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return True


def _examine_dicom(content: bytes, limits: Limits) -> Picture:
    """Return what the header of a DICOM file says of its pixels; of the patient nothing is read."""
    if not dicom_files.can_read():
        raise Refused(415, "this is a DICOM file, which this service was not set up to read; send a PNG or JPEG image")
    try:
        # The rules of a model decide on the frame, and the limits of this service on the size, before any decoding.
        with open_image(io.BytesIO(content), DicomRules(frame="first")) as image:
            width, height = image.size
    except OSError as error:
        raise Refused(422, f"the DICOM file cannot be read: {error}") from error
    if width * height > limits.megapixels * MEGA:
        raise _too_many_pixels(f"{width} x {height} pixels", limits)
    return Picture(dicom_files.FORMAT, width, height)


def _too_many_pixels(got: str, limits: Limits) -> Refused:
    return Refused(413, f"the image has {got}; at most {limits.megapixels:g} megapixels are read: send a smaller one")
