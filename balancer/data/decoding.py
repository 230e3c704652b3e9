"""The images of a listing at the working size and in its channels, whether they are files or lie in an archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from balancer.core.pixels import COLOUR, GREY
from balancer.data import cache, channels
from balancer.data.channels import Seen
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
    setting, stamp = rules.channels, _stamp(listing)
    if listing.channels is not None and setting in (channels.AUTO, listing.channels):
        return _decode_in(listing.channels, listing, stamp, rules, ranges, decode)
    if setting == COLOUR:
        decoded, seen, chosen = _decode_in(COLOUR, listing, stamp, rules, ranges, decode), None, COLOUR
    else:
        decoded, seen, chosen = _decode_as_seen(listing, stamp, rules, ranges, decode)
    names = [record.name for record in listing.records]
    return replace(decoded, notes=[*channels.note(setting, chosen, seen, decoded, names), *decoded.notes])


def _decode_as_seen(
    listing: Listing, stamp: str, rules: DecodingRules, ranges: Ranges | None, decode: bool
) -> tuple[Decoded, Seen, int]:
    """Return the images in colour if any is truly coloured, unless grey is set; what was seen; and the channels.

    A few images are looked at first, which tells a set in colour. Then all others that are stored in colour are.
    """

    def look(i: int) -> bool | None:
        return _look(listing, i, rules)

    n, auto = len(listing.records), rules.channels == channels.AUTO
    known = channels.stored(stamp, n)
    seen = known or channels.sample(n, look)
    if auto and seen.coloured:
        decoded, chosen = _decode_in(COLOUR, listing, stamp, rules, ranges, decode), COLOUR
    else:
        decoded, chosen = _decode_in(GREY, listing, stamp, rules, ranges, decode), GREY
    if known or not auto or not decode:
        return decoded, seen, chosen
    # Decoding has told which images are stored in colour; an earlier version did not ask.
    left = decoded.positions if decoded.in_colour is None else decoded.in_colour
    seen = channels.store(stamp, channels.search(seen, left, look))
    if seen.coloured and chosen == GREY:
        return _decode_in(COLOUR, listing, stamp, rules, ranges, decode), seen, COLOUR
    return decoded, seen, chosen


def decode_grey(listing: Listing, rules: DecodingRules, ranges: Ranges | None = None) -> Decoded:
    """Return the images of a listing in grey, whatever their channels are, without a note on the channels."""
    return _decode_in(GREY, listing, _stamp(listing), rules, ranges, decode=True)


def _stamp(listing: Listing) -> str:
    """Return what names the files as they are on disk; of an archive, also which of its images are read."""
    names = [record.name for record in listing.records]
    if listing.images is None:
        return cache.stat_stamp(listing.root, names)
    archive = cache.stat_stamp(listing.root.parent, [listing.root.name])
    return hashlib.sha256("\n".join([archive, *names]).encode()).hexdigest()[:24]


def _look(listing: Listing, i: int, rules: DecodingRules) -> bool | None:
    """Return whether an image is truly coloured; None if it is stored in grey."""
    if listing.images is None:
        return looks_coloured(listing.root / listing.records[i].name, rules.dicom)
    pixels = listing.images[i]
    return None if pixels.ndim == 2 else is_coloured(Image.fromarray(pixels))


def _decode_in(
    number: int, listing: Listing, stamp: str, rules: DecodingRules, ranges: Ranges | None, decode: bool
) -> Decoded:
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

    return cache.decode_all(names, stamp, digest, reader, settings, rules.max_bad, ranges, decode)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _decode_array(pixels: Array, number: int, rules: DecodingRules, ranges: Ranges | None) -> Decoding:
    image = Image.fromarray(pixels)
    picture, source = (to_grey if number == GREY else to_colour)(image, ranges)
    return decoding_of(picture, source, rules.size, rules.resize, number)
