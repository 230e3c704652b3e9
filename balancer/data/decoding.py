"""The images of a listing at the working size and in its channels, whether they are files or lie in an archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from balancer.core.pixels import COLOUR, GREY
from balancer.data import cache, channels
from balancer.data.colour import is_coloured
from balancer.data.decoded import Decoded, Reader, file_reader
from balancer.data.depth import Decoding, Ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.images import AS_SHOWN, decoding_of, looks_coloured, to_colour, to_grey
from balancer.data.listing import Array, Listing


@dataclass(frozen=True)
class DecodingRules:
    """How images become arrays."""

    size: int  # px, square
    resize: str = "squash"
    max_bad: float = 1.0  # share of unreadable files above which the data set is refused
    dicom: DicomRules = AS_SHOWN
    channels: int | str = GREY  # 1, 3, or auto: 3 if any image is truly coloured


def decode_listing(
    listing: Listing, rules: DecodingRules, ranges: Ranges | None = None, decode: bool = True
) -> Decoded:
    """Return the decoded images of a listing, from the cache if they are there; see :func:`cache.decode_all`.

    What was decided on the channels, and why, is in the notes.
    """
    asked = rules.channels
    if asked == channels.AUTO and listing.channels is not None:
        return _decode_in(listing.channels, listing, rules, ranges, decode)
    n, stamp = len(listing.records), _stamp(listing)
    seen = (
        None if asked == COLOUR else channels.stored(stamp, n) or channels.sample(n, lambda i: _look(listing, i, rules))
    )
    chosen = COLOUR if asked == COLOUR or (asked == channels.AUTO and seen and seen.coloured) else GREY
    decoded = _decode_in(chosen, listing, rules, ranges, decode)
    if seen and asked == channels.AUTO and decode:
        # Images that were not looked at: of those stored in grey, decoding has told that.
        left = decoded.positions if decoded.in_colour is None else decoded.in_colour
        seen = channels.store(stamp, channels.search(seen, left, lambda i: _look(listing, i, rules)))
        if seen.coloured and chosen == GREY:
            chosen, decoded = COLOUR, _decode_in(COLOUR, listing, rules, ranges, decode)
    names = [record.name for record in listing.records]
    return replace(decoded, notes=[*channels.note(asked, chosen, seen, decoded, names), *decoded.notes])


def decode_grey(listing: Listing, rules: DecodingRules, ranges: Ranges | None = None) -> Decoded:
    """Return the images of a listing in grey, whatever their channels are, without a note on the channels."""
    return _decode_in(GREY, listing, rules, ranges, decode=True)


def _stamp(listing: Listing) -> str:
    if listing.images is None:
        return cache.stat_stamp(listing.root, [record.name for record in listing.records])
    return cache.stat_stamp(listing.root.parent, [listing.root.name])


def _look(listing: Listing, i: int, rules: DecodingRules) -> bool | None:
    """Return whether an image is truly coloured; None if it is stored in grey."""
    if listing.images is None:
        return looks_coloured(listing.root / listing.records[i].name, rules.dicom)
    pixels = listing.images[i]
    return None if pixels.ndim == 2 else is_coloured(Image.fromarray(pixels))


def _decode_in(number: int, listing: Listing, rules: DecodingRules, ranges: Ranges | None, decode: bool) -> Decoded:
    """Return the images in so many channels."""
    names, images = [record.name for record in listing.records], listing.images
    settings: dict[str, str | int] = {"size": rules.size, "resize": rules.resize, **rules.dicom.to_key()}
    if number != GREY:
        settings["channels"] = number
    if images is None:
        files = [listing.root / name for name in names]
        reader = file_reader(files, rules.size, rules.resize, rules.dicom, number)

        def digest(i: int) -> str:
            return _sha256(files[i])

    else:
        arrays = images
        reader = Reader(
            lambda i, ranges: _decode_array(arrays[i], number, rules, ranges), lambda i: min(arrays[i].shape[:2])
        )

        def digest(i: int) -> str:
            return hashlib.sha256(arrays[i].tobytes()).hexdigest()

    return cache.decode_all(names, _stamp(listing), digest, reader, settings, rules.max_bad, ranges, decode)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _decode_array(pixels: Array, number: int, rules: DecodingRules, ranges: Ranges | None) -> Decoding:
    image = Image.fromarray(pixels)
    picture, source = (to_grey if number == GREY else to_colour)(image, ranges)
    return decoding_of(picture, source, rules.size, rules.resize, number)
