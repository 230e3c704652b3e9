"""The images of a listing at the working size, whether they are files or lie in an archive."""

from __future__ import annotations

import hashlib

from PIL import Image

from balancer.data import cache
from balancer.data.decoded import Decoded, Reader, file_reader
from balancer.data.depth import Decoding, Ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.images import AS_SHOWN, resize_grey, to_grey
from balancer.data.listing import Listing


def decode_listing(
    listing: Listing,
    size: int,
    resize: str,
    max_bad: float,
    ranges: Ranges | None = None,
    decode: bool = True,
    rules: DicomRules = AS_SHOWN,
) -> Decoded:
    """Return the decoded images of a listing, from the cache if they are there; see :func:`cache.decode_all`."""
    names, root, images = [r.name for r in listing.records], listing.root, listing.images
    settings: dict[str, str | int] = {"size": size, "resize": resize, **rules.to_key()}
    if images is None:
        stamp = cache.stat_stamp(root, names)
        reader = file_reader([root / name for name in names], size, resize, rules)
        return cache.decode_all(
            names,
            stamp,
            lambda i: hashlib.sha256((root / names[i]).read_bytes()).hexdigest(),
            reader,
            settings,
            max_bad,
            ranges,
            decode,
        )

    def decode_one(i: int, ranges: Ranges | None) -> Decoding:
        grey, source = to_grey(Image.fromarray(images[i]), ranges)
        return Decoding(resize_grey(grey, size, resize), source)

    return cache.decode_all(
        names,
        cache.stat_stamp(root.parent, [root.name]),
        lambda i: hashlib.sha256(images[i].tobytes()).hexdigest(),
        Reader(decode_one, lambda i: min(images[i].shape[:2])),
        settings,
        max_bad,
        ranges,
        decode,
    )
