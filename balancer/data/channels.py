"""In how many channels the images of a set are read: three if any image is truly coloured, else one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from balancer.core.pixels import COLOUR
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.shapes import parse
from balancer.core.system_errors import explained
from balancer.data import cache
from balancer.data.decoded import Decoded
from balancer.data.images import named
from balancer.data.sampling import evenly

AUTO = "auto"
SAMPLED = 64  # images that are looked at first, evenly spread: sets in colour show it there
AT_ONCE = 512  # images that are looked at before the search for a coloured one may end
Look = Callable[[int], bool | None]  # of an image by number: truly coloured or not, None if it is stored in grey


@dataclass(frozen=True)
class Seen:
    """What a look at images showed."""

    looked: int
    in_colour: int  # stored so
    coloured: int  # truly
    of: int  # images of the set

    def __add__(self, other: Seen) -> Seen:
        """Return what two looks at different images of a set showed."""
        both = self.looked + other.looked, self.in_colour + other.in_colour, self.coloured + other.coloured
        return Seen(*both, self.of)


def sample(n: int, look: Look) -> Seen:
    """Look at some of n images, evenly spread."""
    return _look(evenly(n, SAMPLED).tolist(), n, look)


def search(seen: Seen, positions: Sequence[int], look: Look) -> Seen:
    """Look at further images until one is truly coloured; ``seen`` is what the sample showed."""
    sampled = set(evenly(seen.of, SAMPLED).tolist())
    left = [i for i in positions if i not in sampled]
    for start in range(0, len(left), AT_ONCE):
        if seen.coloured:
            break
        seen += _look(left[start : start + AT_ONCE], seen.of, look)
    return seen


def _look(positions: Sequence[int], n: int, look: Look) -> Seen:
    def one(k: int) -> bool | None:
        try:
            return look(positions[k])
        except OSError:
            return None  # decoding says what is wrong with it

    results = cache.in_threads(one, len(positions), "looking for colour") if positions else []
    in_colour = [result for result in results if result is not None]
    return Seen(len(positions), len(in_colour), sum(in_colour), n)


def stored(stamp: str, n: int) -> Seen | None:
    """Return what an earlier search through the same n images showed; None without one."""
    file = cache.cache_dir("stat") / f"{stamp}.colour.json"
    try:
        seen = parse(Seen, read_json(file), file)
    except (FileNotFoundError, DamagedFile):
        return None
    return seen if seen.of == n else None


def store(stamp: str, seen: Seen) -> Seen:
    """Keep what a whole search through files showed."""
    with explained("or set BALANCER_CACHE to a folder of your own", OSError):
        write_json(cache.cache_dir("stat") / f"{stamp}.colour.json", asdict(seen))
    return seen


def note(setting: str | int, channels: int, seen: Seen | None, decoded: Decoded, names: Sequence[str]) -> list[str]:
    """Return a sentence on the channels and on why; empty for a set that is stored in grey and read so.

    Args:
        setting: auto, 1 or 3.
        channels: that the images were read in.
        seen: what a look at the images showed; None if nobody looked.
        decoded: the images.
        names: of all images of the list.
    """
    n = len(decoded.positions)
    without = decoded.without_colour
    if channels == COLOUR and without is None:
        why = f" {seen.coloured} of {seen.looked} images looked at are coloured." if seen else ""
        return [f"The images are read in colour, with 3 channels.{why}"]
    if channels == COLOUR and without is not None:
        return [_in_colour(setting, n, [names[i] for i in without])]
    if seen is not None and seen.coloured:
        which = f"{seen.coloured:,} of the {seen.looked:,} images looked at are coloured"
        return [f"channels is 1: {which}, and all images are read in grey (luminance)."]
    if setting == AUTO and seen is not None and seen.in_colour:
        count = len(decoded.in_colour) if decoded.in_colour is not None else seen.in_colour
        return [f"{count:,} of {n:,} images are stored in colour, and none is coloured: all are read in grey."]
    return []


def _in_colour(setting: str | int, n: int, without: Sequence[str]) -> str:
    """Return the sentence on n images that were read in colour, some of them without any."""
    if len(without) == n:
        return f"channels is {setting}: no image is coloured, and each was read with three equal channels."
    if not without:
        return f"All {n:,} images are coloured, and are read with 3 channels."
    coloured = n - len(without)
    are, have = "is" if coloured == 1 else "are", "has" if len(without) == 1 else "have"
    return (
        f"{coloured:,} of {n:,} images {are} coloured, so all are read with 3 channels; {len(without):,} without colour"
        f" ({named(without, 3)}) {have} three equal channels. --channels 1 reads grey."
    )
