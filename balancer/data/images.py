"""Reading any image that PIL reads, as grey or colour uint8 at the working size."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY, in_colour
from balancer.data import dicom_files
from balancer.data.colour import GREY_MODES, SIDE, is_coloured
from balancer.data.depth import SAMPLES, SIXTEEN_BIT, Decoding, Ranges, Samples, Source, limits
from balancer.data.dicom_files import DicomRules
from balancer.data.jpeg import may_be_cut, refuse_cut
from balancer.data.png import may_be_short, refuse_short

Array = np.ndarray
log = logging.getLogger("balancer")
SMALLEST = 8  # px: an image with a shorter side shows no chest
_HALVED_LEAST = 64  # of colour with 16 bits Pillow reads the upper 8: samples of 14 bits or less would come out black
_WHITE_IS_ZERO = 0  # PhotometricInterpretation of a TIFF
_PHOTOMETRIC, _BITS_PER_SAMPLE, _COLOUR_MAP, _SAMPLE_FORMAT = 262, 258, 320, 339  # tags
_SIGNED = (2,)  # SampleFormat
_SCALED = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies grey of 2 and 4 bits, and not its transparent level
SNIFFED = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # known by content, whatever the suffix
_PROGRAMS = {"EPS"}  # formats that an interpreter would have to run
AS_SHOWN = DicomRules()
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def named(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def is_image(path: Path) -> bool:
    """Return whether a file's content, not its name, is that of an image; its pixels may still be damaged."""
    try:
        with path.open("rb") as handle, Image.open(handle, formats=SNIFFED):
            return True
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds for what is no image
        return False


@contextmanager
def open_image(source: Path | IO[bytes], rules: DicomRules = AS_SHOWN) -> Iterator[Image.Image]:
    """Open an image that holds one picture of a usable size; its pixels are not read yet.

    Args:
        source: a file, or what somebody sent: of that, only the common formats are read.
        rules: how DICOM files are read.

    Raises:
        OSError: whatever a decoder raises, in one line.
    """
    # Pillow's own warnings name no file. Filters and not catch_warnings, which is not safe in threads.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    file = source if isinstance(source, Path) else None
    if file is not None and file.exists() and not file.is_file():  # opening a pipe would wait for ever
        raise OSError("no regular file")
    try:
        # By handle: given a path, Pillow 13 maps an uncompressed TIFF and garbles it if EXIF says to turn it.
        opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with opened as handle, _opened(handle, file, rules) as image:
            _check(file or "the image", image)
            if image.format == "PNG" and image.mode.startswith("I"):
                image.info[_SIGNIFICANT] = _significant_bits(handle)
            yield image
    except UnidentifiedImageError as error:  # its own message names a handle
        raise OSError(dicom_files.no_dicom(file) or "not an image in a format that is read") from error
    except (OSError, MemoryError, BalancerError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise OSError(f"{type(error).__name__}: {reason}") from error


def _opened(handle: IO[bytes], file: Path | None, rules: DicomRules) -> Image.Image:
    start = handle.read(dicom_files.START)
    handle.seek(0)
    if not dicom_files.is_dicom(start, file.suffix if file else ""):
        return Image.open(handle, formats=SNIFFED if file is None else None)
    if not dicom_files.can_read():
        raise OSError(dicom_files.needs_extra())
    from balancer.data.dicom import DicomImage  # the only import: its packages are an extra

    return DicomImage(handle, rules)


def _check(path: object, image: Image.Image) -> None:
    width, height = image.size
    if image.format in _PROGRAMS:
        raise OSError(f"{image.format} is a program, not a picture")
    if min(width, height) < SMALLEST:
        raise OSError(f"{width} x {height} px; expected {SMALLEST} px or more a side")
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise OSError(f"{frames} pictures in one file; expected one")
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        log.warning("%s has %d x %d px, which takes long and much memory", path, width, height)


def to_grey(image: Image.Image, ranges: Ranges | None = None) -> tuple[Image.Image, Source]:
    """Return an image of any mode as mode ``L``, or as ``F`` in [0, 255] if the source has more than 8 bits.

    Colour becomes luminance (ITU-R BT.601). The rest is as in :func:`upright`, with its errors.
    """
    picture, source = upright(image, ranges)
    return (picture if picture.mode == "F" else picture.convert("L")), source


def to_colour(image: Image.Image, ranges: Ranges | None = None) -> tuple[Image.Image, Source]:
    """Return an image of any mode as ``RGB``; one stored in grey as :func:`to_grey` does."""
    picture, source = upright(image, ranges)
    if picture.mode in ("L", "F"):
        return picture, source
    return picture.convert("L" if picture.mode in GREY_MODES else "RGB"), source


def upright(image: Image.Image, ranges: Ranges | None = None) -> tuple[Image.Image, Source]:
    """Return an image as a viewer shows the image, of mode ``F`` in [0, 255] if the source has more than 8 bits.

    EXIF rotation is applied. Transparency is laid on black, the background of a radiograph. Deep images are scaled by
    ``ranges``, else by the range that this image would have alone.

    Raises:
        OSError: the pixel data are truncated, corrupt or out of range.
    """
    side, tags, kind = min(image.size), getattr(image, "tag_v2", {}), _kind(image)
    stored = image.mode not in GREY_MODES
    rawmodes = [str(tile.args) for tile in getattr(image, "tile", ())]
    if SAMPLES in image.info:
        return _scaled(image.info[SAMPLES](), ranges or {}, side)
    image.load()
    _check_samples(image, rawmodes, bool(kind))
    transparent = image.info.get("transparency")
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in _UPRIGHT:
        # By the value alone: ImageOps.exif_transpose writes all tags anew and fails on one that it cannot write.
        image = image.transpose(_UPRIGHT[orientation])
    if kind:
        values: Array = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > SIXTEEN_BIT:
            raise OSError(f"{image.mode} pixels outside 0 to 65535")
        if isinstance(transparent, int):
            values = np.where(values == transparent, 0, values)
        return _scaled(Samples(values, kind, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO), ranges or {}, side)
    if isinstance(transparent, int) and rawmodes and rawmodes[0] in _SCALED:
        image.info["transparency"] = transparent * _SCALED[rawmodes[0]]
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image, Source(side, in_colour=stored)


def _scaled(samples: Samples, ranges: Ranges, side: int) -> tuple[Image.Image, Source]:
    """Return samples as grey levels, mode ``F`` in [0, 255], and their source."""
    values, kind = samples.values, samples.kind
    inside = values if samples.padding is None else values[~samples.padding]
    peak, floor = (float(inside.max()), min(0.0, float(inside.min()))) if kind and inside.size else (0.0, 0.0)
    source = Source(side, kind, peak, floor, samples.shown)
    if kind:
        black, white = limits(source, ranges)
        values = np.clip(values, black, white)  # a training's range can be exceeded
        values -= black
        values *= 255.0 / (white - black)
    if samples.inverted:
        values = 255 - values
    return Image.fromarray(values if samples.padding is None else np.where(samples.padding, 0, values)), source


def _check_samples(image: Image.Image, rawmodes: Sequence[str], deep: bool) -> None:
    """Refuse samples that Pillow reads as others than the file's: their upper half, without sign, as nothing but black.

    Args:
        image: after loading.
        rawmodes: how its samples are stored, known before loading.
        deep: whether it has samples of more than 8 bits.
    """
    tags = getattr(image, "tag_v2", {})
    highest = max(high for _, high in np.reshape(image.getextrema(), (-1, 2)))
    if not deep and any(";16" in rawmode for rawmode in rawmodes) and highest < _HALVED_LEAST:
        raise OSError("colour of 16 bits a sample that uses at most 14 of them; store the picture as grey")
    if not deep and tags.get(_SAMPLE_FORMAT) == _SIGNED and highest > np.iinfo(np.int8).max:
        raise OSError("signed samples of 8 bits below 0")
    if _COLOUR_MAP in tags and max(tags[_COLOUR_MAP]) <= np.iinfo(np.uint8).max:
        raise OSError("a TIFF colour map of 8 bits, which comes out black; store the picture as grey")


def _kind(image: Image.Image) -> str:
    """Return how deep samples are stored, empty for images of 8 bits; see :class:`Source`."""
    if image.mode == "F":
        return "float"
    if not image.mode.startswith("I"):
        return ""
    stated = image.info.get(_SIGNIFICANT) or getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return f"integer:{stated}" if 8 < stated < 16 else "integer"


_SIGNIFICANT = "significant bits"  # key of Image.info for what the sBIT chunk of a PNG says


def _significant_bits(handle: IO[bytes]) -> int:
    """Return the bits that a grey PNG's sBIT chunk states, 0 without one; Pillow skips this chunk."""
    here = handle.tell()
    handle.seek(8)
    bits = 0
    while len(head := handle.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"sBIT":
            bits = handle.read(1)[0]
        if name in (b"sBIT", b"IDAT"):
            break
        handle.seek(length + 4, 1)
    handle.seek(here)  # where Pillow goes on reading
    return bits


def resize_image(image: Image.Image, size: int, how: str, extent: tuple[float, float] | None = None) -> Array:
    """Return an image as (size, size) or (size, size, 3) uint8, antialiased (bicubic over a pixel's whole footprint).

    ``how`` is ``squash``, which ignores the aspect ratio, ``pad``, which adds black borders, or ``crop``, which cuts
    the longer side, centred. ``extent`` is (width, height) in pixels of the part, from the top left, with the picture.
    """
    method = Image.Resampling.BICUBIC
    width, height = extent or image.size
    if how == "pad":
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        picture = image.resize(inner, method, (0, 0, width, height))
        image = Image.new(picture.mode, (size, size), 0)
        image.paste(picture, (round((size - inner[0]) / 2), round((size - inner[1]) / 2)))
    elif how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), method, (left, top, left + side, top + side))
    else:
        image = image.resize((size, size), method, (0, 0, width, height))
    return np.clip(np.rint(np.asarray(image, dtype=np.float32)), 0, 255).astype(np.uint8)


def read_picture(
    path: Path, ranges: Ranges | None = None, rules: DicomRules = AS_SHOWN, channels: int = GREY
) -> Image.Image:
    """Return an image file at its own size; see :func:`to_grey` and :func:`to_colour`.

    Raises:
        OSError: unreadable, as in :func:`decode_image`.
    """
    with open_image(path, rules) as image:
        picture, _ = (to_grey if channels == GREY else to_colour)(image, ranges)
        _check_end(path, image)
        return picture


def decode_image(
    source: Path | IO[bytes],
    size: int,
    how: str,
    ranges: Ranges | None = None,
    rules: DicomRules = AS_SHOWN,
    channels: int = GREY,
) -> Decoding:
    """Return an image as (size, size) or (size, size, 3) uint8, and what its set must know of it.

    See :func:`open_image`. An image stored in grey has three equal channels in colour.

    Raises:
        OSError: unreadable, empty, truncated, not an image, several images, or too small for a chest.
    """
    with open_image(source, rules) as image:
        side, extent = min(image.size), _reduce(image, size, channels)
        picture, known = (to_grey if channels == GREY else to_colour)(image, ranges)
        _check_end(source, image, lambda again: _reduce(again, size, channels))
        return decoding_of(picture, replace(known, side=side), size, how, channels, extent)


def decoding_of(
    picture: Image.Image,
    source: Source,
    size: int,
    how: str,
    channels: int,
    extent: tuple[float, float] | None = None,
) -> Decoding:
    """Return a picture of :func:`to_grey` or :func:`to_colour` at the working size."""
    pixels = resize_image(picture, size, how, extent)
    if channels == GREY:
        return Decoding(pixels, source)
    return Decoding(in_colour(pixels[None])[0], replace(source, coloured=is_coloured(picture)))


def is_converted(source: Path | IO[bytes], known: Source, channels: int, rules: DicomRules = AS_SHOWN) -> bool:
    """Return whether an image lost its colours, or has none, when it was decoded in so many channels.

    Args:
        source: the file.
        known: what decoding found.
        channels: that it was decoded in.
        rules: how DICOM files are read.

    Raises:
        OSError: unreadable, as in :func:`decode_image`.
    """
    if channels != GREY:
        return not known.coloured
    return known.in_colour and bool(looks_coloured(source, rules))


def looks_coloured(source: Path | IO[bytes], rules: DicomRules = AS_SHOWN) -> bool | None:
    """Return whether an image file is truly coloured; None if it is stored in grey.

    Raises:
        OSError: unreadable, as in :func:`decode_image`.
    """
    with open_image(source, rules) as image:
        if image.mode in GREY_MODES:
            return None
        image.draft(None, (2 * SIDE, 2 * SIDE))  # a JPEG may be decoded at a reduced scale
        return is_coloured(to_colour(image)[0])


def _reduce(image: Image.Image, size: int, channels: int) -> tuple[float, float] | None:
    """Let a JPEG much larger than needed be decoded at a reduced scale, never below twice the working size.

    For originals of several megapixels this saves most of the time. Returned is the extent of the picture: 700 rows
    reduced to an eighth are 88 rows, the last half empty, and the picture ends at 87.5. None if nothing is reduced.
    """
    if image.format != "JPEG" or image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    to_luma = channels == GREY and image.mode in ("L", "RGB")
    reduced = image.draft("L" if to_luma else None, (2 * size, 2 * size))
    return reduced[1][2:] if reduced else None


def _check_end(
    source: Path | IO[bytes], image: Image.Image, prepare: Callable[[Image.Image], object] = lambda _: None
) -> None:
    """Refuse a file whose missing end the decoder has filled: that of a JPEG with grey, that of a PNG with 0."""
    if image.format == "JPEG" and may_be_cut(image):
        refuse_cut(_content(source), image, prepare)
    if image.format == "PNG" and may_be_short(image):
        refuse_short(_content(source))


def _content(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    source.seek(0)
    return source.read()


def read_image(
    path: Path,
    size: int,
    how: str,
    ranges: Ranges | None = None,
    rules: DicomRules = AS_SHOWN,
    channels: int = GREY,
) -> Array:
    """Return an image file as (size, size) or (size, size, 3) uint8; see :func:`decode_image`."""
    return decode_image(path, size, how, ranges, rules, channels).pixels
