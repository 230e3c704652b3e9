"""Radial power spectra of synthetic and real images: blur, noise and checkerboards in dB.

Up-convolutions tend to get fine detail wrong (Durall et al. 2020, arXiv:2003.01826). How wrong depends on a generator's
last layers more than on what the generator learnt (Chandrasegaran et al. 2021, arXiv:2103.17195). The real spectrum
bears the marks of its own resizing and JPEG compression. So spectra say how images differ, not how good they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy

from balancer.core.errors import BalancerError
from balancer.core.pixels import luminance
from balancer.metrics.chance import FEWEST, Chance, chance_of, draw_sides, side_means

Array = np.ndarray

ROUNDING_POWER = 1 / 12  # grey levels squared: what rounding to whole grey levels alone puts at every frequency
CHUNK = 256  # images transformed at once
# Where up-convolutions of stride 2 leave their grid: the last one repeats every 2 pixels, the one before it every 4.
# (vertical, horizontal) in cycles/pixel, one of each pair f and -f, which are equal in a real image.
GRID_POINTS = (
    (0.0, 0.5),
    (0.5, 0.0),
    (0.5, 0.5),
    (0.0, 0.25),
    (0.25, 0.0),
    (0.25, 0.25),
    (0.25, -0.25),
    (0.25, 0.5),
    (0.5, 0.25),
)
RING = 2  # bins from a grid point to its neighbourhood; under the Hann window a line ends one bin earlier
FEW = 16  # images a side below which likeness is said with reserve: so few can agree by luck
SHARP_DB, CHECKERBOARD_DB = 1.0, 3.0  # differences that interpretation() calls equal, and a peak


@dataclass(frozen=True)
class Spectrum:
    """Synthetic against real spectra, in dB; 0 dB is white noise of SD 1 grey level.

    The suffix ``_real_baseline`` marks the same figure of other real images of other patients.
    """

    frequency: tuple[float, ...]  # cycles/pixel, up to .5
    real: tuple[float, ...]  # mean over images at each frequency
    fake: tuple[float, ...]
    real_sd: tuple[float, ...]  # SD over real images
    difference: tuple[float, ...]  # fake - real
    rms_db: float  # root mean square of the difference over frequencies
    rms_db_real_baseline: float
    high_db: float  # mean difference over the top third of frequencies: above 0 too much detail or noise, below 0 blur
    high_db_real_baseline: float
    # By how much synthetic images stand out more than real ones at the worst of nine grid points. As a maximum it is .5
    # to 1.5 where there is nothing, and up to 3 where noise flattens the steep spectrum of very small images (28 px).
    checkerboard_db: float
    checkerboard_db_real_baseline: float
    # The three figures when real and synthetic images change sides at random; None in reports of earlier versions.
    rms_chance: Chance | None = field(default=None, kw_only=True)
    high_chance: Chance | None = field(default=None, kw_only=True)
    checkerboard_chance: Chance | None = field(default=None, kw_only=True)
    # As high_db, but the median over frequencies, which the few lines of a checkerboard do not move.
    high_median_db: float | None = field(default=None, kw_only=True)
    images: int | None = field(default=None, kw_only=True)  # on the smaller side
    # The highest peak of synthetic images that stands above its own neighbourhood as well as above real images. Where
    # real spectra fall steeply, white noise and blank images exceed them without any peak.
    checkerboard_own_db: float | None = field(default=None, kw_only=True)


def compare_spectra(real: Array, fake: Array, other_real: Array, seed: int = 0) -> Spectrum:
    """Compare images (n, H, W) or (n, H, W, 3) uint8 of one size; of colour images the luminance.

    Args:
        real: real images.
        fake: synthetic images.
        other_real: real images of other patients, as many as there are synthetic images: real against real.
        seed: seed of the draws of sides that show what chance does.

    Raises:
        BalancerError: If a set is empty, sizes differ, a side has fewer than 16 pixels, or images are not uint8.
    """
    real, fake, other_real = luminance(real), luminance(fake), luminance(other_real)
    sizes = {images.shape[1:] for images in (real, fake, other_real)}
    if len(sizes) > 1:
        raise BalancerError(f"expected images of one size; got {' and '.join(map(str, sorted(sizes)))}")
    frequency, real_db = radial_spectrum(real)
    fake_db = radial_spectrum(fake)[1]
    real_mean, fake_mean, other_mean = (x.mean(axis=0) for x in (real_db, fake_db, radial_spectrum(other_real)[1]))
    difference, other_difference = fake_mean - real_mean, other_mean - real_mean
    top = frequency > frequency[-1] * 2 / 3
    real_ratios, fake_ratios = _grid_ratios(real), _grid_ratios(fake)
    real_peaks, fake_peaks = _decibels(real_ratios.mean(axis=0)), _decibels(fake_ratios.mean(axis=0))
    sides = draw_sides(len(real), len(fake), seed)
    first, second = side_means(real_db, fake_db, sides)
    first_ratios, second_ratios = side_means(real_ratios, fake_ratios, sides)
    return Spectrum(
        frequency=_floats(frequency),
        real=_floats(real_mean),
        fake=_floats(fake_mean),
        real_sd=_floats(real_db.std(axis=0)),
        difference=_floats(difference),
        rms_db=_rms(difference),
        rms_db_real_baseline=_rms(other_difference),
        high_db=float(difference[top].mean()),
        high_db_real_baseline=float(other_difference[top].mean()),
        checkerboard_db=float((fake_peaks - real_peaks).max()),
        checkerboard_db_real_baseline=float((grid_peaks(other_real) - real_peaks).max()),
        rms_chance=chance_of(np.sqrt(((second - first) ** 2).mean(axis=1))),
        high_chance=chance_of((second - first)[:, top].mean(axis=1)),
        checkerboard_chance=chance_of((_decibels(second_ratios) - _decibels(first_ratios)).max(axis=1)),
        high_median_db=float(np.median(difference[top])),
        images=min(len(real), len(fake)),
        checkerboard_own_db=float(np.minimum(fake_peaks, fake_peaks - real_peaks).max()),
    )


def radial_spectrum(images: Array) -> tuple[Array, Array]:
    """Return the mean power of each image at each radial frequency.

    The images lose their mean and are tapered by a Hann window. Their borders do not join up, and the jump would leak
    low-frequency power over the whole spectrum, above all along the axes. Power is per unit of the window's energy, so
    white noise of SD s has s^2 at every frequency and image size. Power is averaged over rings one frequency step wide.
    It is at least 1/12, the power of rounding to 8 bits, so a constant image has -10.8 dB.

    Args:
        images: grey (n, H, W) uint8.

    Returns:
        Ring centres (b,) in cycles/pixel, k / min(H, W) up to .5 (the corners beyond are left out), and dB (n, b).

    Raises:
        BalancerError: If there is no image, a side has fewer than 16 pixels, or images are not uint8.
    """
    _check(images)
    height, width = images.shape[1:]
    side = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring = np.rint(radius * side).astype(np.int64).ravel()  # 0 is the mean
    order = np.argsort(ring, kind="stable")
    starts = np.searchsorted(ring[order], np.arange(1, side // 2 + 2))
    parts = []
    for x in _windowed(images):
        power = np.abs(np.fft.fft2(x)).reshape(len(x), -1)[:, order[: starts[-1]]] ** 2
        parts.append(np.add.reduceat(power, starts[:-1], axis=1) / np.diff(starts))
    return np.arange(1, side // 2 + 1) / side, _decibels(np.maximum(np.concatenate(parts), ROUNDING_POWER))


def grid_peaks(images: Array) -> Array:
    """Return how far power at each of GRID_POINTS stands above its neighbourhood, in dB (9,).

    The neighbourhood is a square ring RING bins away, near enough that the fall of natural spectra across it matters
    little. Ratios are taken image by image and then averaged. So bright or rich images count no more than others, and a
    checkerboard on some images counts. Fourier sums are taken at the exact points, for which odd sizes have no bin.

    Raises:
        BalancerError: As :func:`radial_spectrum`.
    """
    return _decibels(_grid_ratios(images).mean(axis=0))


def _grid_ratios(images: Array) -> Array:
    """Return power at each of GRID_POINTS over the power around it, image by image (n, 9)."""
    _check(images)
    height, width = images.shape[1:]
    offsets = np.arange(-RING, RING + 1)
    ring = np.maximum(np.abs(offsets)[:, None], np.abs(offsets)[None]) == RING
    ratios = []
    for x in _windowed(images):
        zooms = [
            _carriers(fy + offsets / height, height) @ x @ _carriers(fx + offsets / width, width).T
            for fy, fx in GRID_POINTS
        ]
        power = np.maximum(np.abs(np.stack(zooms, axis=1)) ** 2, ROUNDING_POWER)  # (m, 9, 5, 5)
        ratios.append(power[..., RING, RING] / power[..., ring].mean(axis=-1))
    return np.concatenate(ratios)


def interpretation(spectrum: Spectrum) -> str:
    """Return the comparison in words; a difference counts where neither chance nor two real sets give as much."""
    if spectrum.images is not None and spectrum.images < FEWEST:
        return f"{spectrum.images} images a side are too few to tell anything about fine detail"
    board = _has_checkerboard(spectrum)
    text = _sharpness(spectrum, board)
    return f"{text}; a checkerboard peak of {spectrum.checkerboard_db:.1f} dB" if board else text


def _has_checkerboard(s: Spectrum) -> bool:
    by_chance = s.checkerboard_chance is not None and not s.checkerboard_chance.is_high
    has_peak = s.checkerboard_own_db is None or s.checkerboard_own_db >= CHECKERBOARD_DB
    return has_peak and s.checkerboard_db >= max(CHECKERBOARD_DB, s.checkerboard_db_real_baseline) and not by_chance


def _sharpness(s: Spectrum, board: bool) -> str:
    """Describe fine detail. The power of a checkerboard is fine detail too, so beside one the median counts."""
    tolerance = max(SHARP_DB, s.rms_db_real_baseline)
    by_chance = s.high_chance is not None and not (s.high_chance.is_high or s.high_chance.is_low)
    under = s.high_db if s.high_median_db is None else s.high_median_db
    if board and -tolerance <= s.high_db and under < -tolerance:
        return f"{-under:.1f} dB less fine detail than real images under the checkerboard: blurred"
    if board and abs(s.high_db) <= tolerance:
        return f"as much fine detail as real images within {tolerance:.1f} dB, a checkerboard included"
    if abs(s.high_db) <= tolerance or by_chance:
        if abs(s.high_db) <= tolerance:
            text = f"as sharp as real images within {tolerance:.1f} dB"
            if s.images is not None and s.images < FEW:
                text += f", as far as {s.images} images show"
        else:
            text = f"no sharper or smoother than chance allows at this n ({s.high_db:+.1f} dB)"
        if s.rms_db > 2 * tolerance and not (s.rms_chance and not s.rms_chance.is_high):
            text += f", but {s.rms_db:.1f} dB off over all frequencies (two real sets: {s.rms_db_real_baseline:.1f})"
        return text
    if s.high_db < 0:
        return f"{-s.high_db:.1f} dB less fine detail than real images: blurred"
    return f"{s.high_db:.1f} dB more fine detail than real images: noisy"


def _check(images: Array) -> None:
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) == 0 or min(images.shape[1:]) < 16:
        raise BalancerError(
            f"expected grey uint8 images (n, H, W), n > 0, 16 px or more a side; got {images.shape} {images.dtype}"
        )


def _windowed(images: Array) -> Iterator[Array]:
    """Yield chunks (m, H, W) float64: the images less their mean under the window, times the window, at unit energy."""
    window = np.outer(*(scipy.signal.windows.hann(side, sym=False) for side in images.shape[1:]))
    for start in range(0, len(images), CHUNK):
        x = images[start : start + CHUNK].astype(np.float64)
        x -= np.tensordot(x, window, 2)[:, None, None] / window.sum()
        yield x * window / np.sqrt((window**2).sum())


def _carriers(frequencies: Array, length: int) -> Array:
    """Return exp(-2 pi i f x), (f, length)."""
    waves: Array = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(length)))
    return waves


def _decibels(power: Array) -> Array:
    level: Array = 10 * np.log10(power)
    return level


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _floats(x: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in x)
