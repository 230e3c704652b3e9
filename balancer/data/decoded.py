"""What reading a list of images gives: all of them decoded, or, for a dry run, what their headers tell.

A dry run must end within seconds, also where the cache is empty. It reads every header and decodes a few files. One
image then stands for all: figures would be wrong, but every computation takes as long as with the real images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.pixels import shape_of
from balancer.core.preview import Undecoded
from balancer.core.threads import allowed_processors
from balancer.data.depth import Decoding, Ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.digests import Digests
from balancer.data.images import AS_SHOWN, decode_image, open_image

DECODED = 24  # files that a dry run decodes: enough to know how long the others take


@dataclass(frozen=True)
class Decoded:
    """The readable images of a list of files, in the order of the list."""

    # (n, size, size) or (n, size, size, 3) uint8, a read-only memory map; of a dry run one image, n times
    images: np.ndarray
    positions: list[int]  # (n,) of the readable files in the list
    digests: Digests  # (n,) SHA-256 of each file
    bad: list[tuple[str, str]]  # (name, reason) of every unreadable file
    ranges: dict[str, float]  # of deep samples, shared by the set; see :func:`balancer.data.depth.white_level`
    notes: list[str]  # what a reader must know of the decoding
    undecoded: Undecoded | None = None  # what a dry run has left to the run
    # Positions in the list of the readable files that are stored in colour, truly coloured or not; of images read in
    # colour, of those that have none. None where that is not known: an earlier version decoded, or nobody did yet.
    in_colour: list[int] | None = None
    without_colour: list[int] | None = None


@dataclass(frozen=True)
class Reader:
    """How the files of a list are read, each by its number; both may raise OSError."""

    decode: Callable[[int, Ranges | None], Decoding]  # in the ranges given, else in a range of the file's own
    side: Callable[[int], int]  # px of the shorter side, by the header alone


def file_reader(files: Sequence[Path], size: int, how: str, rules: DicomRules = AS_SHOWN, channels: int = 1) -> Reader:
    """Return the reader of image files, which :func:`~balancer.data.images.decode_image` decodes."""

    def side(i: int) -> int:
        with open_image(files[i], rules) as image:
            return min(image.size)

    return Reader(lambda i, ranges: decode_image(files[i], size, how, ranges, rules, channels), side)


def by_headers(
    names: Sequence[str],
    digests: Sequence[str],
    reader: Reader,
    size: int,
    ranges: Ranges | None,
    channels: int = 1,
) -> Decoded:
    """Return what headers tell of the files of a list, and one image in place of all.

    Files whose header, or whose pixels among the :data:`DECODED`, cannot be read are left out, as a run would do.
    """
    bad: dict[int, str] = {}
    sides: dict[int, int] = {}
    for i in progress.each(range(len(names)), "reading headers", "image"):
        try:
            sides[i] = reader.side(i)
        except OSError as error:
            bad[i] = _reason(error)
    tried = list(sides)[:: max(1, len(sides) // DECODED)]
    shown, begin = np.zeros(shape_of(size, channels), np.uint8), time.perf_counter()
    for i in tried:
        try:
            shown = reader.decode(i, ranges).pixels
        except OSError as error:
            bad[i] = _reason(error)
    seconds = (time.perf_counter() - begin) / max(len(tried), 1) * len(sides)
    kept = [i for i in range(len(names)) if i not in bad]
    small = [side for side in sides.values() if side < size]
    return Decoded(
        images=np.broadcast_to(shown, (len(kept), *shown.shape)),
        positions=kept,
        digests=Digests(digests[i] for i in kept),
        bad=[(names[i], bad[i]) for i in sorted(bad)],
        ranges={},
        notes=enlarged_note(sorted(set(small)), len(small), len(names), size),
        undecoded=Undecoded(len(kept), seconds / min(8, allowed_processors())),
    )


def _reason(error: OSError) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def refuse_too_many(bad: Sequence[tuple[str, str]], n: int, max_bad: float) -> None:
    """Refuse a data set with more unreadable files, of n, than the share ``max_bad``.

    Raises:
        BalancerError: naming the first of them.
    """
    if len(bad) > max_bad * n:
        raise BalancerError(
            f"{len(bad)} of {n} files cannot be read, more than --max-bad {max_bad:g} allows"
            f" ({'; '.join(f'{name}: {reason}' for name, reason in bad[:5])}{'; ...' if len(bad) > 5 else ''});"
            " repair or remove them, or raise --max-bad"
        )


def enlarged_note(sides: Sequence[int], count: int, n: int, size: int) -> list[str]:
    """Return a sentence on images that are smaller than the working size; empty without any.

    Args:
        sides: px of their shorter sides, each once, sorted.
        count: of these images.
        n: images of the set.
        size: px that they were enlarged to.
    """
    if not sides:
        return []
    both = " to ".join(map(str, dict.fromkeys((sides[0], sides[-1]))))
    return [
        f"{count} of {n} images are {both} px and were enlarged to {size} px, which adds no detail: figures"
        f" are those of the smaller images. --image-size {sides[0]} enlarges none."
    ]
