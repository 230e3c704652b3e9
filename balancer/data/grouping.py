"""Near duplicates among images whose patients are not known, so that a split by image keeps them on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY, channels_of
from balancer.core.settings_base import DataConfig
from balancer.data import cache
from balancer.data.decoded import Decoded
from balancer.data.decoding import DecodingRules, decode_grey
from balancer.data.dicom_files import DicomRules
from balancer.data.images import AS_SHOWN
from balancer.data.listing import Listing
from balancer.data.near_duplicates import COPY, near_duplicates
from balancer.data.records import Record, is_patient
from balancer.data.split import merge_groups

FORMAT = 2  # raise when the groups change, or what is stored of them
SIDE = 64  # pixels of the images that are compared, squashed
MOST_COMPARED = 100_000  # images: every image is compared with every other


def groups_of(
    listing: Listing, records: Sequence[Record], decoded: Decoded, config: DataConfig, is_carved: bool
) -> tuple[list[str], list[str]]:
    """Return what folds keep together, and a note: patients, with copies; near duplicates where no patient is known.

    Near duplicates are looked for at one size, whatever the working size, so that every size has the same split.

    Args:
        listing: what was read.
        records: the readable images.
        decoded: these images.
        config: the settings that they were decoded with.
        is_carved: whether any fold is carved; near duplicates are not looked for else.
    """
    patients = [r.patient for r in records]
    by_patient = merge_groups(patients, decoded.digests)
    if listing.plain_split or not is_carved or all(map(is_patient, patients)):
        return by_patient, []
    if decoded.undecoded:
        return by_patient, ["Near duplicates are looked for in the run, which keeps them on one side."]
    if len(records) > MOST_COMPARED:
        return by_patient, [
            f"More than {MOST_COMPARED:,} images: only equal files, not near duplicates, stay together."
        ]
    small = decoded
    if (config.image_size, config.resize, channels_of(decoded.images)) != (SIDE, "squash", GREY):
        small = decode_grey(listing, DecodingRules(SIDE, dicom=DicomRules.of(config)), decoded.ranges)
    if small.positions != decoded.positions:
        raise BalancerError(f"files of {listing.root} change while they are read; run again")
    near, pairs, skipped = near_groups(small.images, decoded.digests, DicomRules.of(config))
    note = f"{pairs:,} pair{'s' * (pairs != 1)} of near duplicates stay{'s' * (pairs == 1)} on one side of the split."
    notes = [note] if pairs else []
    if skipped:
        notes.append(
            f"{skipped:,} more pairs of images have similar hashes and were not compared: near duplicates among them"
            " may lie in two folds."
        )
    return merge_groups(patients, decoded.digests, near), notes


def near_groups(
    thumbnails: np.ndarray, digests: Sequence[str], rules: DicomRules = AS_SHOWN
) -> tuple[list[str], int, int]:
    """Return the number of each image's group of near duplicates, as text, how many pairs there are, and more pairs.

    The last number is of pairs that their hashes propose, and that are too many to be compared. The groups are kept in
    the cache.

    Args:
        thumbnails: (n, SIDE, SIDE) uint8.
        digests: of the files.
        rules: by which DICOM files were read.
    """
    n = len(digests)
    key = hashlib.sha256(f"{FORMAT} {COPY} {' '.join(digests)}{rules.to_key() or ''}".encode()).hexdigest()[:24]

    def searched() -> dict[str, np.ndarray]:
        search = near_duplicates(np.asarray(thumbnails), digests)
        pairs = [(pair.first, pair.second) for pair in search.pairs if pair.correlation >= COPY]
        skipped = search.candidates - len(search.pairs)
        return {"groups": _joined(n, pairs), "pairs": np.array([len(pairs)]), "skipped": np.array([skipped])}

    layout = {"groups": ("int64", (n,)), "pairs": ("int64", (1,)), "skipped": ("int64", (1,))}
    stored = cache.cached_arrays(cache.cache_dir("near") / f"{key}.npz", layout, searched)
    return [str(group) for group in stored["groups"].tolist()], int(stored["pairs"][0]), int(stored["skipped"][0])


def _joined(n: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the smallest position (n,) of the images that each image is joined to, over any number of pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    component = connected_components(links, directed=False)[1]
    first = np.full(component.max() + 1, n)
    np.minimum.at(first, component, np.arange(n))
    return first[component].astype(np.int64)
