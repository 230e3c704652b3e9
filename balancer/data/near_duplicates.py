"""Copies: identical files, and images that show one exposure twice, re-encoded, brightened, blurred or trimmed.

Chest X-rays look alike, so similarity alone accuses wrongly. A near duplicate is found in two steps. A perceptual hash
(Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", here of 256 bits) proposes pairs
(:mod:`balancer.data.similar_hashes`). Then the two images are aligned (:func:`_aligned`), slow changes of brightness
and the finest grain are filtered out, and the pixels are correlated. A pair that is not alike enough is compared once
more with both histograms equalised, which undoes a change of the grey scale.

Measured on the 5,856 images of Kermany et al. 2018 at 224 px (tests/balancer/audit/test_audit.py repeats the main
part):

- Among the 585 candidates, pairs of different patients end at a correlation of .864, pairs of one patient at .891. A
  single pair of different numbers stands apart at .924 and looks like one child exposed twice.
- All copies of 300 images are found, at .962 or more, when brightened, at gamma 1.6, blurred by 3 px, at JPEG quality
  10, with noise of SD 10, brought to 64 px, turned by 1 degree, or trimmed on all sides by 4 px. Trimmed by 5 px 99 %
  are found, by 6 px 90 %; with noise of SD 25 96 %; turned by 2 degrees, mirrored, or inverted, none.
- Of copies with another grey scale, equalised histograms find all: after histogram equalisation at .962 or more, at
  gamma .5 at .967 or more. Without, 63 % and 71 % are found. Of copies after local equalisation (CLAHE) 78 % are found.
  Equalised, pairs of different patients end at .861, but for the single pair at .912.
- The built-in drawings are more alike than X-rays: there different patients end at .959, equalised at .943.

COPY lies between. Pairs from SUSPECT to COPY are no copies; the report shows them, so that a person can look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import scipy

from balancer.core import progress
from balancer.data.perceptual_hash import perceptual_hash
from balancer.data.similar_hashes import close_pairs

Array = np.ndarray
HASH_SIDE = 16  # frequencies a side, so 256 bits
BITS = 64  # that may differ in a candidate pair; unrelated images differ in 128
COPY = 0.96  # correlation from which a pair is a near duplicate
EQUALISED = 0.60  # correlation from which a pair is compared again with equalised histograms; copies had .75 or more
SUSPECT = 0.90  # correlation from which a pair of different patients is worth a look
MOST_CANDIDATES = 50_000  # pairs that are verified, the most similar hashes first: half a minute
FLAT = 2.0  # grey levels of SD below which an image is blank and cannot be compared
BAND = (0.7, 3.0)  # SDs in pixels of the two Gaussians whose difference is what is correlated
EDGE = 6  # pixels left out on each side: what alignment brings in from beyond the image stays there
SCALES = (0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06)
SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # pixels
UNMOVED = SCALES.index(1.0) * len(SHIFTS) + SHIFTS.index(0.0)
ROUNDS = 2  # of alignment, each over rows and then over columns
TINY = np.float32(1e-6)  # keeps a division by zero from a blank middle
PART = 4096  # images whose floats are held at a time: 128 MB
CHUNK = 512  # pairs aligned at a time


class Thumbnails(Protocol):
    """Images (n, 64, 64) uint8 by position: an array, a memory map, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Array, /) -> Array: ...


@dataclass(frozen=True)
class SimilarPair:
    """Two images by position, ``first < second``; ``bits`` their hashes differ in, ``correlation`` once aligned.

    The correlation is of the equalised images where only these show the pair to be a near duplicate.
    """

    first: int
    second: int
    bits: int
    correlation: float


@dataclass(frozen=True)
class PairSearch:
    """All verified pairs, the most similar first, and how many images and pairs the search went through."""

    pairs: list[SimilarPair]
    compared: int  # images: one of each group of identical files, without blank ones
    blank: int
    candidates: int  # pairs that the hash proposed; at most MOST_CANDIDATES were verified


def near_duplicates(thumbnails: Thumbnails, digests: Sequence[str]) -> PairSearch:
    """Return pairs of images that look alike. Of identical files only the first is compared.

    Args:
        thumbnails: (n, 64, 64) uint8, images brought to a square without cropping.
        digests: of the files.
    """
    ones = np.sort(np.unique(np.asarray(digests), return_index=True)[1])
    blank = np.concatenate([thumbnails[part].std(axis=(1, 2)) for part in _parts(ones)]) < FLAT
    compared = ones[~blank]
    if not len(compared):
        return PairSearch([], 0, int(blank.sum()), 0)
    bits = np.concatenate([perceptual_hash(thumbnails[part], HASH_SIDE) for part in _parts(compared)])
    candidates = close_pairs(bits, BITS)
    verified = candidates[np.argsort(candidates[:, 2], kind="stable")[:MOST_CANDIDATES]]
    places = compared[verified[:, :2]]
    correlations = _correlations(thumbnails, places)
    again = np.flatnonzero((correlations >= EQUALISED) & (correlations < COPY))
    equalised = _correlations(thumbnails, places[again], prepare=equalise)
    correlations[again] = np.where(equalised >= COPY, equalised, correlations[again])
    rows = zip(places.tolist(), verified[:, 2].tolist(), correlations.tolist(), strict=True)
    pairs = [SimilarPair(first, second, bits, correlation) for (first, second), bits, correlation in rows]
    pairs.sort(key=lambda pair: (-pair.correlation, pair.first, pair.second))
    return PairSearch(pairs, len(compared), int(blank.sum()), len(candidates))


def _parts(positions: Array) -> list[Array]:
    """Return positions in parts of at most PART, since floats of a whole set would fill the memory."""
    return [positions[start : start + PART] for start in range(0, len(positions), PART)]


def equalise(images: Array) -> Array:
    """Return images (n, H, W) uint8 with equalised histograms: each grey level becomes its middle rank in the image."""
    equalised = np.empty_like(images)
    for image, out in zip(images, equalised, strict=True):
        counts = np.bincount(image.ravel(), minlength=256)
        ranks = np.cumsum(counts) - counts / 2
        out[:] = np.round(255 * ranks / image.size).astype(np.uint8)[image]
    return equalised


def _correlations(thumbnails: Thumbnails, pairs: Array, prepare: Callable[[Array], Array] = np.asarray) -> Array:
    """Return the correlation (k,) of each of ``pairs`` (k, 2) of positions, prepared and aligned."""
    involved, numbers = np.unique(pairs, return_inverse=True)
    numbers = numbers.reshape(-1, 2)
    bands = _bands(prepare(thumbnails[involved])) if len(involved) <= PART else None  # else for each chunk anew
    correlations = np.empty(len(pairs))
    with progress.bar(len(pairs), "near duplicates", "pair") as bar:
        for start in range(0, len(pairs), CHUNK):
            chosen = numbers[start : start + CHUNK]
            sides = (chosen[:, 0], chosen[:, 1])
            first, second = (
                _bands(prepare(thumbnails[involved[side]])) if bands is None else bands[side] for side in sides
            )
            correlations[start : start + CHUNK] = _aligned(first, second)
            bar.update(len(chosen))
    return correlations


def _bands(thumbnails: Array) -> Array:
    """Return what is correlated: (n, side, side) float32 without the slowest changes and the finest grain."""
    grey = thumbnails.astype(np.float32)
    fine, coarse = (scipy.ndimage.gaussian_filter(grey, (0, sd, sd)) for sd in BAND)
    return np.asarray(fine - coarse)


def _aligned(images: Array, others: Array) -> Array:
    """Return the correlation (k,) of bands (k, side, side), pair by pair, with the second image aligned to the first.

    Alignment scales and shifts along rows and columns. The two take turns: a trim of a few pixels changes both, and
    there are thousands of combinations.
    """
    warps = _warps(images.shape[1])
    target = images[:, EDGE:-EDGE, EDGE:-EDGE]
    target = target - target.mean(axis=(1, 2), keepdims=True)
    target = target / np.maximum(np.linalg.norm(target, axis=(1, 2), keepdims=True), TINY)
    columns = np.full(len(images), UNMOVED)
    for _ in range(ROUNDS):
        rows, _fit = _best_warp(warps, target, others @ warps[columns].transpose(0, 2, 1))
        moved = warps[rows] @ others
        columns, fit = _best_warp(warps, target.transpose(0, 2, 1), moved.transpose(0, 2, 1))
    return fit


def _warps(side: int) -> Array:
    """Return matrices (w, side - 2 EDGE, side) that scale and shift a line of pixels and leave out its ends.

    The matrix at UNMOVED only leaves out the ends.
    """
    pixel, middle = np.arange(side), (side - 1) / 2
    warps = []
    for scale, shift in product(SCALES, SHIFTS):
        source = np.clip((pixel - middle) * scale + middle + shift, 0, side - 1)
        left = np.minimum(source.astype(int), side - 2)
        warp = np.zeros((side, side), dtype=np.float32)
        warp[pixel, left] = 1 - (source - left)
        warp[pixel, left + 1] = source - left
        warps.append(warp[EDGE:-EDGE])
    return np.stack(warps)


def _best_warp(warps: Array, target: Array, moved: Array) -> tuple[Array, Array]:
    """Return the warp with the highest correlation (k,) and that correlation (k,).

    With target T, image M and warp W, <T, WM> = <W, TM'> and |WM|^2 = <W'W, MM'>. So all warps cost two matrix
    products, and no image is resampled.

    Args:
        warps: (w, s, side).
        target: (k, s, s) of mean 0 and length 1.
        moved: the images (k, side, s).
    """
    across, (n, size, _) = moved.transpose(0, 2, 1), target.shape
    products = (target @ across).reshape(n, -1) @ warps.reshape(len(warps), -1).T
    squares = (moved @ across).reshape(n, -1) @ (warps.transpose(0, 2, 1) @ warps).reshape(len(warps), -1).T
    sums = moved.sum(axis=2) @ warps.sum(axis=1).T
    lengths = np.sqrt(np.maximum(squares - sums**2 / size**2, TINY))
    fits = products / lengths
    best = fits.argmax(axis=1)
    return best, fits[np.arange(n), best]
