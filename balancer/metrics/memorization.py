"""Did the generator copy its training images?

Three questions, from the crude to the subtle, all asked with one distance (:func:`_nearest`):

1. Is a synthetic image a copy of a training image? Exact copies share every pixel. Near copies are found by pixels that
   match after small shifts, or by a perceptual hash (Zauner 2010, "Implementation and Benchmarking of Perceptual
   Image Hash Functions") whose match the pixels then have to confirm.
2. Are synthetic images nearer to the training images than unseen patients are? The test of Meehan, Chaudhuri and Dasgupta
   (AISTATS 2020, arXiv:2004.05675), over the whole space as one cell: a few hundred held-out images do not fill several.
3. Is it *training* they are near? A generator that draws only typical chests is nearer to any set of chests than real
   patients are, and fails question 2 without having copied. So we also ask whether synthetic images come closer to training
   patients than to held-out ones: the membership inference of Chen et al. (CCS 2020, arXiv:1909.03935), where both
   kinds of patient face the same synthetic images and differ only in having been seen.

Limits: copies that are mirrored, rotated, rescaled, or shifted by more than 3 % of the image are not recognised, and a handful
of half-remembered images in thousands sways neither test. Held-out images must come from where the training images do (a
validation fold carved at random): unseen patients of another hospital are farther for reasons that are not copying.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from balancer.core.errors import BalancerError
from balancer.reporting.numbers import p_equals

Array = np.ndarray
Status = Literal["copies", "closer", "none"]

SIDE = 64  # pixels to which every image is brought by area averaging
BLUR = 2.0  # of those pixels: what blur, noise and JPEG take from a copy is taken from every image
SHIFT = 2  # of those pixels, either way on both axes
BORDER = 4  # of those pixels, left out on each side: what a shift brings in at the edge spreads that far
STRIDE = 2  # after that blur every second pixel tells the rest
FLAT = 0.5  # grey levels of SD below which an image is constant
NORMAL_QUARTILE = 0.6745  # SDs between the median and a quartile of a normal distribution
ROUNDING = 1e-5  # squared distances below this are float32's rounding of 0

# When is a pair a near copy? When it is nearer than different patients ever are. Below their median m, the logarithms of the
# distances between a patient and the nearest other patient fall off about normally; their SD comes from m and the lower
# quartile. Duplicates under other patients' names are left out of both.
#
# Measured at 64 px on the real set's 1,147 NORMAL training images, where m = .283 and the SD .154 (at 128 px the same):
# - Other patients: at most 2.7 SD below m (training), 2.5 (202 validation NORMAL), 2.1 (234 test NORMAL), 1.6 (583 validation
#   pneumonia). Images of two DCGANs, 2,534 each: 2.9 and 3.1.
# - 300 copies each: at least 6.0 SD after a blur of 1.5 px, 8.5 for blur 1 with noise, contrast and shift together, 10.7 with
#   noise of SD 10, 13 at JPEG quality 30, 28 shifted by 2 px; 4.3 with noise of SD 25, where 99.7 % are found.
# With the 3,300 pneumonia training images: others at most 3.2; of the same copies at least 99.7 % of each kind are found.
# On 268 phantom drawings, which are more alike: 2,534 others at most 4.3; copies blurred by 1.5 px from 3.5, found by the hash.
NEAR_SDS = 4.5
NEAR_MOST = 0.5  # of m: where distances hardly vary (noise, few images), 4.5 SD below m would still be a long way off
# The hash does not survive shifts but survives stronger blur. Alone it accuses too easily: within 2 bits were 16 of the DCGANs'
# images, all farther than m, and 88 of the 2,534 phantoms, at most 3.2 SD below m. So a match is confirmed by the
# pixels, at a milder threshold: that finds 90 % of X-ray copies blurred by 2 px (49 % without the hash).
HASH_BITS = 2  # of 64 that may differ in a match
HASH_SDS = 3.5
HASH_MOST = 0.75
PAIRS = 8  # closest pairs that a report shows
ALPHA = 0.01  # p-value below which a test counts
CHUNK = 256  # images compared at a time, which bounds the memory


class ClosePair(NamedTuple):
    """A synthetic image and the training image that is nearest to it."""

    synthetic: int  # position among the synthetic images
    training: int  # position among the training images
    distance: float


@dataclass(frozen=True)
class Memorization:
    """What was found. Distances are RMS differences in standard deviations of an image; see :func:`_nearest`.

    ``nearer_probability`` and ``nearer_p`` answer question 2 of the module, ``membership_auroc`` and ``membership_p`` question 3. Both p-values are
    one-sided and conditional on this set of synthetic images. Real images enter them one a patient (the patient's first), because
    images of one patient are not independent.
    """

    n_train: int
    n_held_out: int  # images given, 0 if none were
    n_fake: int
    baseline: Literal["held-out", "training"]  # "training": each patient's distance to other training patients
    n_baseline: int  # images that the synthetic ones are compared with, one a patient
    exact_copies: int  # synthetic images equal to a training image in every pixel
    near_copies: int  # others that are near copies of a training image
    near_threshold: float  # distance of a near copy by pixels alone
    nearer_probability: (
        float  # P(a synthetic image is nearer to the training images than a baseline image); .5 expected
    )
    nearer_p: float
    median_fake: float  # distance to the nearest training image
    median_baseline: float  # the same of the baseline
    membership_auroc: (
        float | None
    )  # P(a training patient is nearer to the synthetic images than a held-out one); .5 expected
    membership_p: float | None  # None, both, without held-out images
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
) -> Memorization:
    """Look for copies of training images among synthetic ones.

    Args:
        train: (n, H, W) uint8, what the generator was trained on; at least 2 patients.
        fake: (k, H, W) uint8, synthetic.
        held_out: (m, H, W) uint8, real images of patients that the generator never saw, at least 2, from the same source. If
            None, training patients' distances to other training patients take their place (with one patient fewer to be
            near to, which matters only for a handful) and question 3 stays open.
        train_groups, held_groups: patient of each real image; if None, every image is a patient.
        pairs: how many closest pairs to return.

    Raises:
        BalancerError: not uint8 images of one size, too few, a patient on both sides, or many training patients alike.
    """
    _check({"training": train, "synthetic": fake} | ({} if held_out is None else {"held-out": held_out}))
    patients, each = _patients(train, train_groups, "training"), np.arange(len(fake))
    first, train_prints, fake_prints = _first_of_each(patients), _prints(train), _prints(fake)
    to_train, within = _nearest(fake_prints, train_prints), _nearest(fake_prints, fake_prints, (each, each))
    others = _nearest(train_prints.at(first), train_prints, (patients[first], patients)).distance
    if held_out is None:
        baseline, membership_auroc, membership_p = others, None, None
    else:
        _check_apart(train_groups, held_groups)
        held_prints = _prints(held_out[_first_of_each(_patients(held_out, held_groups, "held-out"))])
        baseline = _nearest(held_prints, train_prints).distance
        # Now from the patients' side, where training and held-out ones face the same synthetic images.
        membership_auroc, membership_p = _nearer(to_train.back[first], _nearest(fake_prints, held_prints).back)
    thresholds, exact = _thresholds(others), _identical(fake, train)
    near = _is_near(to_train, thresholds) & ~exact
    nearer_probability, nearer_p = _nearer(to_train.distance, baseline)
    status, verdict = _judge(int(exact.sum()), int(near.sum()), len(fake), nearer_p, membership_p)
    return Memorization(
        n_train=len(train),
        n_held_out=0 if held_out is None else len(held_out),
        n_fake=len(fake),
        baseline="training" if held_out is None else "held-out",
        n_baseline=len(baseline),
        exact_copies=int(exact.sum()),
        near_copies=int(near.sum()),
        near_threshold=thresholds[0],
        nearer_probability=nearer_probability,
        nearer_p=nearer_p,
        median_fake=float(np.median(to_train.distance)),
        median_baseline=float(np.median(baseline)),
        membership_auroc=membership_auroc,
        membership_p=membership_p,
        duplicates_within=int(_is_near(within, thresholds).sum()),
        closest=_closest(to_train, pairs),
        status=status,
        verdict=verdict,
    )


def perceptual_hash(images: Array) -> Array:
    """Zauner's DCT hash of grey images (n, H, W): (n, 64) bool.

    The image is averaged down to 32 x 32; of its DCT the 8 x 8 lowest frequencies are kept, without the row and the column of
    frequency zero, and each is compared with their median. Brightness and contrast cancel.
    """
    low = dctn(_area(images, 32), axes=(1, 2))[:, 1:9, 1:9].reshape(len(images), 64)
    bits: Array = low > np.median(low, axis=1, keepdims=True)
    return bits


@dataclass(frozen=True)
class _Prints:
    """What images are compared by: ``blurred`` (n, SIDE, SIDE) float32, ``hashes`` (n, 64) of -1 and 1 float32."""

    blurred: Array
    hashes: Array

    def at(self, rows: Array | slice) -> _Prints:
        return _Prints(self.blurred[rows], self.hashes[rows])


@dataclass(frozen=True)
class _Nearest:
    """Of each query (n,): its distance to the nearest target, which one that is, and its distance to the nearest target
    whose hash matches (infinite if none does). ``back`` (m,): the distance of each target to the nearest query."""

    distance: Array
    index: Array
    hashed: Array
    back: Array


def _prints(images: Array) -> _Prints:
    blurred = gaussian_filter(_area(images, SIDE), (0, BLUR, BLUR))
    return _Prints(blurred, np.where(perceptual_hash(images), np.float32(1), np.float32(-1)))


def _area(images: Array, side: int) -> Array:
    """Images (n, H, W) brought to (n, side, side) float32, each pixel the mean of the area that it covers."""
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(i.astype(np.float32)).resize((side, side), box)) for i in images])


def _standardised(crops: Array) -> Array:
    """Crops (n, h, w) as rows of mean 0 and length 1, so that brightness and contrast cancel; constant ones as zeros."""
    rows = crops.reshape(len(crops), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = length < FLAT * rows.shape[1] ** 0.5
    return np.where(flat, 0, rows / np.where(flat, 1, length))


def _views(blurred: Array) -> Iterator[Array]:
    """The (2 SHIFT + 1)^2 shifted crops of images (n, SIDE, SIDE), in rows."""
    width = SIDE - 2 * (BORDER + SHIFT)
    for y, x in itertools.product(range(BORDER, BORDER + 2 * SHIFT + 1), repeat=2):
        yield blurred[:, y : y + width : STRIDE, x : x + width : STRIDE]


def _nearest(query: _Prints, target: _Prints, patients: tuple[Array, Array] | None = None) -> _Nearest:
    """Nearest targets of queries, over all pairs, or all pairs of different ``patients`` (of queries, of targets).

    The distance of two images is the RMS difference of their blurred and standardised pixels, the least over shifts of the
    query: 0 for a copy that was shifted by up to SHIFT pixels or changed in brightness or contrast, about 1.4 for unrelated
    images. The blur is what keeps a blurred or noisy copy from hiding: it takes away the fine detail on which
    alone such a copy differs from its original.
    """
    inner = slice(BORDER + SHIFT, SIDE - BORDER - SHIFT, STRIDE)
    centre = _standardised(target.blurred[:, inner, inner])
    centre_length = (centre**2).sum(axis=1)  # 1, or 0 where an image is constant
    n, m = len(query.blurred), len(target.blurred)
    distance, index, hashed, back = np.empty(n), np.empty(n, np.int64), np.empty(n), np.full(m, np.inf)
    for rows in (slice(i, i + CHUNK) for i in range(0, n, CHUNK)):
        part = query.at(rows)
        squared = np.full((len(part.blurred), m), np.inf, np.float32)
        for view in map(_standardised, _views(part.blurred)):
            lengths = (view**2).sum(axis=1)[:, None] + centre_length
            np.minimum(squared, lengths - 2 * view @ centre.T, out=squared)
        squared[squared < ROUNDING] = 0
        if patients is not None:
            squared[patients[0][rows, None] == patients[1]] = np.inf
        matches = part.hashes @ target.hashes.T >= 64 - 2 * HASH_BITS
        distance[rows], index[rows] = np.sqrt(squared.min(axis=1)), squared.argmin(axis=1)
        hashed[rows] = np.sqrt(np.where(matches, squared, np.inf).min(axis=1))
        back = np.minimum(back, np.sqrt(squared.min(axis=0)))
    return _Nearest(distance, index, hashed, back)


def _thresholds(others: Array) -> tuple[float, float]:
    """Distances of a near copy, by pixels alone and with a matching hash, given those between different patients (n,)."""
    half = NEAR_MOST * float(np.median(others))
    if half == 0:
        raise BalancerError(
            f"at least half of the {len(others)} training patients have the same image as another patient, or a blank one;"
            " check the images and their patients"
        )
    lower, median = np.quantile(others[others > half], [0.25, 0.5])  # nearer ones may be duplicates under another name
    sd = math.log(median / lower) / NORMAL_QUARTILE
    pixels, hashed = min(NEAR_MOST, math.exp(-NEAR_SDS * sd)), min(HASH_MOST, math.exp(-HASH_SDS * sd))
    return float(median * pixels), float(median * hashed)


def _closest(found: _Nearest, pairs: int) -> tuple[ClosePair, ...]:
    order = np.argsort(found.distance, kind="stable")[:pairs]
    return tuple(ClosePair(int(i), int(found.index[i]), float(found.distance[i])) for i in order)


def _is_near(found: _Nearest, thresholds: tuple[float, float]) -> Array:
    """Which queries (n,) are near copies, exact ones among them."""
    near: Array = (found.distance <= thresholds[0]) | (found.hashed <= thresholds[1])
    return near


def _identical(images: Array, others: Array) -> Array:
    """Which images (n,) equal one of the others in every pixel."""
    seen = {hashlib.sha256(o.tobytes()).digest() for o in others}
    return np.array([hashlib.sha256(i.tobytes()).digest() in seen for i in images])


def _nearer(distances: Array, others: Array) -> tuple[float, float]:
    """P(a distance < another), ties counted half, and the one-sided p-value of Mann and Whitney."""
    test = mannwhitneyu(distances, others, alternative="less")
    return float(1 - test.statistic / (len(distances) * len(others))), float(test.pvalue)


def _judge(exact: int, near: int, n_fake: int, p: float, membership_p: float | None) -> tuple[Status, str]:
    """Status and verdict. Where there are held-out images, question 3 decides between copying and mere likeness."""
    if exact or near:
        kinds = " and ".join(f"{n:,} {kind}" for n, kind in ((exact, "exact"), (near, "near")) if n)
        advice = "do not use them" if exact else "look at the closest pairs before using any"
        what = "copy of a training image" if exact + near == 1 else "copies of training images"
        return "copies", f"{kinds} {what} among {n_fake:,} synthetic images: {advice}."
    clean = f"no exact or near copy among {n_fake:,}"
    likeness = f"Closer to the training images than {'other' if membership_p is None else 'unseen'} patients are ({p_equals(p)})"
    if membership_p is not None and membership_p < ALPHA:
        apart = f"Closer to the training images than to unseen patients ({p_equals(membership_p)})"
        return "closer", f"{apart}: the generator may have memorised; {clean}."
    if p >= ALPHA:
        real = "other patients'" if membership_p is None else "held-out real"
        nearer = f"synthetic images are no closer to training images than {real} ones are ({p_equals(p)})"
        return "none", f"No sign of copying: {nearer}; {clean}."
    if membership_p is None:
        doubt = "the generator may have memorised, or draws only typical images; held-out images would tell"
        return "closer", f"{likeness}: {doubt}; {clean}."
    even = f"not clearly closer to them than to unseen patients ({p_equals(membership_p)})"
    return "none", f"{likeness}, but {even}: typical rather than copied; {clean}."


def _check(sets: dict[str, Array]) -> None:
    for name, images in sets.items():
        if images.ndim != 3 or images.dtype != np.uint8:
            raise BalancerError(f"{name} images are {images.dtype} of shape {images.shape}; expected uint8 (n, H, W)")
        least = 1 if name == "synthetic" else 2
        if len(images) < least:
            raise BalancerError(f"looking for copies needs at least {least} {name} images; got {len(images)}")
    sizes = {f"{name} {h} x {w}" for name, (_, h, w) in ((name, images.shape) for name, images in sets.items())}
    if len({images.shape[1:] for images in sets.values()}) > 1:
        raise BalancerError(f"images differ in size ({', '.join(sorted(sizes))} px); bring them to one size first")


def _check_apart(train_groups: Sequence[str] | None, held_groups: Sequence[str] | None) -> None:
    both = set() if train_groups is None or held_groups is None else set(train_groups) & set(held_groups)
    if both:
        raise BalancerError(
            f"{len(both)} patients are in both the training and the held-out images ({min(both)}, ...); hold out whole patients"
        )


def _patients(images: Array, groups: Sequence[str] | None, name: str) -> Array:
    """Patient of each image (n,) as a number; every image is its own patient where none are given."""
    if groups is not None and len(groups) != len(images):
        raise BalancerError(f"{len(images)} {name} images but {len(groups)} patients were given")
    ids: Array = np.arange(len(images)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(np.unique(ids)) < 2:
        raise BalancerError(f"all {len(images)} {name} images are of one patient; at least 2 patients are needed")
    return ids


def _first_of_each(ids: Array) -> Array:
    """Position of the first image of each patient, in the images' order."""
    return np.sort(np.unique(ids, return_index=True)[1])
