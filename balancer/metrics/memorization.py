"""Did the generator copy its training images?

Three tests look for copies, all with one distance between images (:func:`_nearest`):

- Copies. An exact copy shares every pixel with a training image. A near copy matches it after small shifts. A
  perceptual hash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions") proposes further
  near copies, and the pixels have to confirm them.
- Nearer to training images than unseen patients are. This is the test of Meehan, Chaudhuri and Dasgupta (AISTATS 2020,
  arXiv:2004.05675), with the whole space as one cell: a few hundred held-out images do not fill several cells.
- Nearer to training patients than to held-out patients: the membership inference of Chen et al. (CCS 2020,
  arXiv:1909.03935). A generator that draws only typical chests is nearer to any set of chests than real patients are.
  So it fails the second test without having copied. Here both kinds of patient face the same synthetic images, and
  differ only in having been seen.

Of colour images the luminance is compared: a copy in other colours is a copy. An exact copy has the colours too.

Limits: a copy that is mirrored, rotated, rescaled, or shifted by more than 3 % of the image is not recognised. A
handful of half-remembered images in thousands sways neither test. Held-out images must come from the same source as the
training images, such as a validation fold carved at random. Unseen patients of another hospital are farther for reasons
other than copying.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import scipy

from balancer.core.errors import BalancerError
from balancer.core.pixels import WORDS, channels_of, is_uint8_images, luminance
from balancer.data.perceptual_hash import perceptual_hash, pixel_hashes, shrink
from balancer.data.records import sampling_unit
from balancer.data.sampling import evenly
from balancer.metrics.chance import FEWEST
from balancer.metrics.copy_verdict import Counts, Status, judge
from balancer.metrics.resampling import group_numbers

Array = np.ndarray

SIDE = 64  # pixels to which every image is brought by area averaging
BLUR = 2.0  # of those pixels: every image loses what blur, noise and JPEG take from a copy
SHIFT = 2  # of those pixels, either way on both axes
BORDER = 4  # of those pixels, left out on each side: what a shift brings in at the edge spreads that far
STRIDE = 2  # after the blur, every second pixel holds all the information
FLAT = 0.5  # grey levels of SD below which an image is constant
NORMAL_QUARTILE = 0.6745  # SDs between the median and a quartile of a normal distribution
ROUNDING = 1e-5  # squared distances below this are float32's rounding of 0

# A pair is a near copy when it is nearer than different patients ever are. Below their median m, the logarithms of the
# distances between a patient and the nearest other patient fall off about normally. Their SD comes from m and the lower
# quartile. Duplicates under other patients' names are left out of both. docs/features.md has the measurements behind
# the thresholds.
NEAR_SDS = 4.5
NEAR_MOST = 0.5  # of m: where distances hardly vary (noise, few images), 4.5 SDs below m would still be far off
# The hash survives stronger blur than the pixels but accuses too easily alone, so the pixels confirm it at a milder
# threshold.
HASH_BITS = 2  # of 64 that may differ in a match
HASH_SDS = 3.5
HASH_MOST = 0.75
PAIRS = 8  # closest pairs that a report shows
CHUNK, BLOCK = 256, 1 << 14  # images compared at a time: so many with so many, which bounds the memory
MOST_ASKED = 4000  # real patients whose nearest training image is sought; of more, so many evenly spread


class ClosePair(NamedTuple):
    """A synthetic image and the training image that is nearest to it."""

    synthetic: int  # position among the synthetic images
    training: int  # position among the training images
    distance: float


@dataclass(frozen=True)
class Memorization:
    """How near synthetic images lie to the training images.

    Distances are RMS differences in standard deviations of an image (:func:`_nearest`). Both p-values are one-sided and
    conditional on this set of synthetic images. Real images enter them one a patient (the patient's first), because
    images of one patient are not independent.
    """

    n_train: int
    n_held_out: int  # 0 without held-out images
    n_fake: int
    baseline: Literal["held-out", "training"]  # "training": each patient's distance to other training patients
    n_baseline: int  # real images that the synthetic images are compared with, one a patient
    exact_copies: int  # synthetic images equal to a training image in every pixel
    near_copies: int  # other synthetic images that are near copies of a training image
    near_threshold: float  # distance of a near copy by pixels alone
    nearer_probability: float  # P(a synthetic image is nearer to training images than a baseline image); .5 expected
    nearer_p: float  # one-sided p-value of Mann and Whitney
    median_fake: float  # distance to the nearest training image
    median_baseline: float  # the same distance of the baseline images
    # P(a training patient is nearer to synthetic images than a held-out one); .5 expected
    membership_auroc: float | None
    membership_p: float | None  # p-value of the former; both None without held-out images
    # p-value that held-out patients are farther from the training images than training patients are from one another,
    # as patients of another source are; None without held-out images and in reports of earlier versions
    shift_p: float | None = field(default=None, kw_only=True)
    # The real baseline of ``duplicates_within``: training patients whose first image is a near copy of another
    # patient's, and of how many; None in reports of earlier versions.
    train_duplicates: int | None = field(default=None, kw_only=True)
    train_patients: int | None = field(default=None, kw_only=True)  # None, too, where no patient is known
    # patients, or images where no patient is known; at most MOST_ASKED
    train_units: int | None = field(default=None, kw_only=True)
    duplicates_within: int  # synthetic images that are exact or near copies of another synthetic image
    closest: tuple[ClosePair, ...]  # nearest first
    status: Status
    verdict: str  # a sentence for the report


def memorization(
    train: Array,
    fake: Array,
    held_out: Array | None = None,
    train_groups: Sequence[str] | None = None,
    held_groups: Sequence[str] | None = None,
    pairs: int = PAIRS,
    exact: Array | None = None,
) -> Memorization:
    """Look for copies of training images among synthetic ones.

    Every synthetic image is compared with every training image. How far real patients lie from training images is asked
    of MOST_ASKED training and as many held-out patients at most, so that the time grows with the images, not their
    square.

    Args:
        train: (n, H, W) or (n, H, W, 3) uint8, what the generator was trained on; at least 2 patients.
        fake: synthetic images, of the same size and channels.
        held_out: real images of at least 2 patients that the generator never saw, from the same source. If None,
            training patients' distances to other training patients are the baseline, and there is no membership test.
        train_groups: patient of each training image; if None, every image is a patient.
        held_groups: patient of each held-out image; if None, every image is a patient.
        pairs: number of closest pairs to return.
        exact: which synthetic images (n,) equal a training image, where the pixels here are not those of the files;
            None: those that equal one here.

    Raises:
        BalancerError: If images are not uint8 of one size, too few, share a patient, or half of training look alike.
    """
    _check({"training": train, "synthetic": fake} | ({} if held_out is None else {"held-out": held_out}))
    patients, each_fake = _patients(train, train_groups, "training"), np.arange(len(fake))
    first, train_prints, fake_prints = _first_of_each(patients), _prints(train), _prints(fake)
    to_train, within = _nearest(fake_prints, train_prints), _nearest(fake_prints, fake_prints, (each_fake, each_fake))
    unit = "image" if train_groups is None else sampling_unit(map(str, train_groups))
    asked = first[evenly(len(first), MOST_ASKED)]
    apart = _nearest(train_prints.at(asked), train_prints, (patients[asked], patients))
    baseline, held = apart.distance, _HeldOut()
    if held_out is not None:
        held_prints = _held_prints(held_out, train_groups, held_groups)
        baseline = _nearest(held_prints.at(evenly(len(held_prints.grey), MOST_ASKED)), train_prints).distance
        membership = _membership(to_train.back[first], fake_prints, held_prints)
        held = _HeldOut(len(held_out), "held-out", *membership, _nearer(apart.distance, baseline)[1])
    thresholds, nearer = _thresholds(apart.distance, unit), _nearer(to_train.distance, baseline)
    exact = identical(fake, train) if exact is None else exact
    near = _is_near(to_train, thresholds)
    counts = Counts(int(exact.sum()), int((near & ~exact).sum()), len(fake), len(first), unit)
    few = min(len(fake), len(baseline)) < FEWEST
    status, verdict = judge(counts, nearer[1], held.membership_p, held.shift_p, few)
    return Memorization(
        **held._asdict(),
        n_train=len(train),
        n_fake=len(fake),
        n_baseline=len(baseline),
        exact_copies=counts.exact,
        near_copies=counts.near,
        near_threshold=thresholds[0],
        nearer_probability=nearer[0],
        nearer_p=nearer[1],
        median_fake=float(np.median(to_train.distance)),
        median_baseline=float(np.median(baseline)),
        duplicates_within=int(_is_near(within, thresholds).sum()),
        train_duplicates=int(_is_near(apart, thresholds).sum()),
        train_units=len(asked),
        train_patients=len(asked) if unit == "patient" else None,
        closest=_closest(to_train, pairs),
        status=status,
        verdict=verdict,
    )


class _HeldOut(NamedTuple):
    """What held-out images tell: fields of :class:`Memorization`."""

    n_held_out: int = 0
    baseline: Literal["held-out", "training"] = "training"
    membership_auroc: float | None = None
    membership_p: float | None = None
    shift_p: float | None = None


def _held_prints(held_out: Array, train_groups: Sequence[str] | None, held_groups: Sequence[str] | None) -> _Prints:
    """Return the print of each held-out patient's first image."""
    _check_apart(train_groups, held_groups)
    return _prints(held_out[_first_of_each(_patients(held_out, held_groups, "held-out"))])


def _membership(seen: Array, fake: _Prints, held_out: _Prints) -> tuple[float, float]:
    """Return P(a training patient is nearer to the synthetic images than a held-out one) and its p-value.

    The test is from the patients' side: training and held-out patients face the same synthetic images. ``seen`` are the
    distances of training patients.
    """
    return _nearer(seen, _nearest(fake, held_out).back)


@dataclass(frozen=True)
class _Prints:
    """What images are compared by."""

    grey: Array  # (n, H, W) uint8
    hashes: Array  # (n, 64) float32, -1 or 1

    def at(self, rows: Array | slice) -> _Prints:
        """Return the prints of some images."""
        return _Prints(self.grey[rows], self.hashes[rows])

    def blurred(self) -> Array:
        """Return the images (n, SIDE, SIDE) float32, without the detail that blur, noise and JPEG take."""
        return np.asarray(scipy.ndimage.gaussian_filter(shrink(self.grey, SIDE), (0, BLUR, BLUR)))

    def parts(self, n: int) -> list[_Prints]:
        """Return the prints, n images at a time."""
        return [self.at(slice(i, i + n)) for i in range(0, len(self.grey), n)]

    def centres(self) -> Array:
        """Return the inner pixels of each image as a standardised row."""
        inner = slice(BORDER + SHIFT, SIDE - BORDER - SHIFT, STRIDE)
        return np.concatenate([_standardised(part.blurred()[:, inner, inner]) for part in self.parts(CHUNK)])


@dataclass(frozen=True)
class _Nearest:
    """Nearest targets (m,) of queries (n,)."""

    distance: Array  # (n,) to the nearest target
    index: Array  # (n,) position of the nearest target
    hashed: Array  # (n,) distance to the nearest target whose hash matches; infinite if none does
    back: Array  # (m,) distance of each target to the nearest query


def _prints(images: Array) -> _Prints:
    grey = luminance(images)
    bits = [perceptual_hash(grey[i : i + CHUNK]) for i in range(0, len(grey), CHUNK)]
    return _Prints(grey, np.where(np.concatenate(bits), np.float32(1), np.float32(-1)))


def _standardised(crops: Array) -> Array:
    """Return crops (n, h, w) as rows of mean 0 and length 1, to cancel brightness and contrast; constant crops as 0."""
    rows = crops.reshape(len(crops), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = length < FLAT * rows.shape[1] ** 0.5
    return np.where(flat, 0, rows / np.where(flat, 1, length))


def _views(blurred: Array) -> Iterator[Array]:
    """Yield the (2 SHIFT + 1)^2 shifted crops of images (n, SIDE, SIDE), row by row."""
    width = SIDE - 2 * (BORDER + SHIFT)
    for y, x in itertools.product(range(BORDER, BORDER + 2 * SHIFT + 1), repeat=2):
        yield blurred[:, y : y + width : STRIDE, x : x + width : STRIDE]


def _nearest(query: _Prints, target: _Prints, patients: tuple[Array, Array] | None = None) -> _Nearest:
    """Return the nearest targets of queries, among all or among those of other ``patients`` (of queries, of targets).

    The distance of two images is the RMS difference of their blurred and standardised pixels, the least over shifts of
    the query. A copy that was shifted by up to SHIFT pixels or changed in brightness or contrast has distance 0.
    Unrelated images have about 1.4. The blur finds blurred or noisy copies too: it removes the fine detail in which
    they differ.
    """
    found = []
    for i, block in enumerate(target.parts(BLOCK)):
        there = None if patients is None else (patients[0], patients[1][i * BLOCK : (i + 1) * BLOCK])
        found.append(_nearest_of(query, block, there))
    distances = np.stack([part.distance for part in found])
    best, each = distances.argmin(axis=0), np.arange(len(query.grey))
    return _Nearest(
        distances[best, each],
        np.stack([part.index for part in found])[best, each] + best * BLOCK,
        np.min([part.hashed for part in found], axis=0),
        np.concatenate([part.back for part in found]),
    )


def _nearest_of(query: _Prints, target: _Prints, patients: tuple[Array, Array] | None) -> _Nearest:
    """Return the nearest of a block of targets, as :func:`_nearest` does."""
    centre = target.centres()
    centre_length = (centre**2).sum(axis=1)  # 1, or 0 where an image is constant
    parts, back = [], np.full(len(centre), np.inf)
    for i, part in enumerate(query.parts(CHUNK)):
        squared = np.full((len(part.grey), len(centre)), np.inf, np.float32)
        for view in map(_standardised, _views(part.blurred())):
            lengths = (view**2).sum(axis=1)[:, None] + centre_length
            np.minimum(squared, lengths - 2 * view @ centre.T, out=squared)
        squared[squared < ROUNDING] = 0
        if patients is not None:
            squared[patients[0][i * CHUNK : (i + 1) * CHUNK, None] == patients[1]] = np.inf
        matches = part.hashes @ target.hashes.T >= 64 - 2 * HASH_BITS
        hashed = np.where(matches, squared, np.inf).min(axis=1)
        parts.append((squared.min(axis=1), squared.argmin(axis=1), hashed))
        back = np.minimum(back, np.sqrt(squared.min(axis=0)))
    distance, index, hashed = map(np.concatenate, zip(*parts, strict=True))
    return _Nearest(np.sqrt(distance).astype(np.float64), index, np.sqrt(hashed).astype(np.float64), back)


def _thresholds(others: Array, unit: str) -> tuple[float, float]:
    """Return the largest distance of a near copy, by pixels alone and with a matching hash.

    Args:
        others: distance (n,) of each training patient to the nearest other patient.
        unit: what they are in words, "patient" or "image".
    """
    half = NEAR_MOST * float(np.median(others))
    if half == 0:
        raise BalancerError(
            f"at least half of the {len(others)} training {unit}s have the same image as another {unit}, or a blank"
            f" one; check the images{' and their patients' if unit == 'patient' else ''}"
        )
    lower, median = np.quantile(others[others > half], [0.25, 0.5])  # nearer ones may be duplicates under another name
    sd = math.log(median / lower) / NORMAL_QUARTILE
    pixels, hashed = min(NEAR_MOST, math.exp(-NEAR_SDS * sd)), min(HASH_MOST, math.exp(-HASH_SDS * sd))
    return float(median * pixels), float(median * hashed)


def _closest(nearest: _Nearest, pairs: int) -> tuple[ClosePair, ...]:
    order = np.argsort(nearest.distance, kind="stable")[:pairs]
    return tuple(ClosePair(int(i), int(nearest.index[i]), float(nearest.distance[i])) for i in order)


def _is_near(nearest: _Nearest, thresholds: tuple[float, float]) -> Array:
    """Return which queries (n,) are near copies; exact copies are among them."""
    near: Array = (nearest.distance <= thresholds[0]) | (nearest.hashed <= thresholds[1])
    return near


def identical(images: Array, others: Array) -> Array:
    """Return which images (n,) equal one of the others in every pixel."""
    known = set(pixel_hashes(others))
    return np.array([content in known for content in pixel_hashes(images)], dtype=bool)


def _nearer(distances: Array, others: Array) -> tuple[float, float]:
    """Return P(a distance < another), ties counted half, and the one-sided p-value of Mann and Whitney."""
    test = scipy.stats.mannwhitneyu(distances, others, alternative="less")
    return float(1 - test.statistic / (len(distances) * len(others))), float(test.pvalue)


def _check(sets: dict[str, Array]) -> None:
    for name, images in sets.items():
        if not is_uint8_images(images):
            raise BalancerError(
                f"{name} images are {images.dtype} of shape {images.shape}; expected uint8 (n, H, W) or (n, H, W, 3)"
            )
        least = 1 if name == "synthetic" else 2
        if len(images) < least:
            raise BalancerError(f"looking for copies needs at least {least} {name} images; got {len(images)}")
    if len({images.shape[1:] for images in sets.values()}) > 1:
        kinds = {f"{n} {x.shape[1]} x {x.shape[2]} px in {WORDS[channels_of(x)]}" for n, x in sets.items()}
        raise BalancerError(f"images differ in size or channels ({', '.join(sorted(kinds))}); bring them to one kind")


def _check_apart(train_groups: Sequence[str] | None, held_groups: Sequence[str] | None) -> None:
    both = set() if train_groups is None or held_groups is None else set(train_groups) & set(held_groups)
    if both:
        unit = sampling_unit(map(str, both))
        raise BalancerError(
            f"{len(both)} {unit}s are in both the training and the held-out images ({min(both)}, ...);"
            f" hold out {'all images of a patient' if unit == 'patient' else 'other images'}"
        )


def _patients(images: Array, groups: Sequence[str] | None, name: str) -> Array:
    """Return the patient (n,) of each image as a number; without ``groups`` every image is its own patient."""
    if groups is not None and len(groups) != len(images):
        raise BalancerError(f"{len(images)} {name} images but {len(groups)} groups; expected one group an image")
    ids: Array = np.arange(len(images)) if groups is None else group_numbers(groups)
    if len(np.unique(ids)) < 2:
        unit = "image" if groups is None else sampling_unit(map(str, groups))
        one = "of one patient" if unit == "patient" else "the same image"
        raise BalancerError(f"all {len(images)} {name} images are {one}; at least 2 {unit}s are needed")
    return ids


def _first_of_each(ids: Array) -> Array:
    """Return the position of each patient's first image, in the order of the images."""
    return np.sort(np.unique(ids, return_index=True)[1])
