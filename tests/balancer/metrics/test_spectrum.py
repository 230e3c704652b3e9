"""Radial spectra against closed forms and loops; what blur, noise and checkerboards do to them."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import fields
from scipy.ndimage import gaussian_filter

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset
from balancer.metrics.spectrum import (
    CHECKERBOARD_DB,
    GRID_POINTS,
    ROUNDING_POWER,
    Spectrum,
    compare_spectra,
    grid_peaks,
    interpretation,
    radial_spectrum,
)

ROUNDING_DB = 10 * math.log10(ROUNDING_POWER)
SIZES = [(16, 16), (28, 28), (45, 45), (64, 48), (101, 101), (256, 256)]


def to_uint8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def white(n: int, shape: tuple[int, int], sd: float = 20.0, seed: int = 0) -> np.ndarray:
    return to_uint8(128 + sd * np.random.default_rng(seed).normal(size=(n, *shape)))


@lru_cache
def natural(n: int, side: int, seed: int) -> np.ndarray:
    """Power falling with the fourth power of the frequency: steep, as a chest X-ray's."""
    noise = np.random.default_rng(seed).normal(size=(n, side, side))
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    radius[0, 0] = 1 / side
    x = np.fft.ifft2(np.fft.fft2(noise) / radius**2).real
    return to_uint8(128 + 35 * x / x.std(axis=(1, 2), keepdims=True))


def board(side: int, period: int) -> np.ndarray:
    """+-1, repeating every ``period`` pixels both ways."""
    rows = np.arange(side) // (period // 2)
    return 1.0 - 2.0 * ((rows[:, None] + rows[None]) % 2)


@pytest.mark.parametrize("shape", SIZES)
def test_white_noise_is_flat_at_its_variance(shape: tuple[int, int]) -> None:
    """At every size, so that levels compare; the ring next to the mean lacks what the mean's removal took."""
    side = min(shape)
    frequency, level = radial_spectrum(white(400 if side < 100 else 60, shape))
    assert frequency == pytest.approx(np.arange(1, side // 2 + 1) / side)
    assert frequency[-1] <= 0.5
    power = 10 * np.log10((10 ** (level / 10)).mean(axis=0))
    assert power[1:] == pytest.approx(20 * math.log10(20), abs=0.8)
    assert power[1:].mean() == pytest.approx(20 * math.log10(20), abs=0.1)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_sinusoid_peaks_at_its_frequency(shape: tuple[int, int], share: float) -> None:
    side = min(shape)
    k = max(2, round(share * (side // 2)))
    waves = [np.cos(2 * np.pi * k / side * np.arange(n)) for n in shape]
    down, across = np.repeat(waves[0][:, None], shape[1], 1), np.repeat(waves[1][None], shape[0], 0)
    frequency, level = radial_spectrum(to_uint8(128 + 50 * np.stack([down, across])))
    assert frequency[level.argmax(axis=1)] == pytest.approx([k / side, k / side])


@given(seed=st.integers(0, 1000), height=st.integers(16, 21), width=st.integers(16, 21))
def test_against_sums_written_out(seed: int, height: int, width: int) -> None:
    """Window, Fourier sum and ring average, each from its definition."""
    image = white(1, (height, width), seed=seed)[0]
    rows, columns = np.arange(height), np.arange(width)
    window = np.outer(np.sin(np.pi * rows / height) ** 2, np.sin(np.pi * columns / width) ** 2)
    x = (image - (image * window).sum() / window.sum()) * window
    side = min(height, width)
    rings: dict[int, list[float]] = {}
    for u in range(-(height // 2), (height + 1) // 2):
        for v in range(-(width // 2), (width + 1) // 2):
            wave = np.exp(-2j * np.pi * (u * rows[:, None] / height + v * columns[None] / width))
            ring = round(math.hypot(u / height, v / width) * side)
            rings.setdefault(ring, []).append(abs((x * wave).sum()) ** 2 / (window**2).sum())
    expected = [10 * math.log10(np.mean(rings[k])) for k in range(1, side // 2 + 1)]
    assert radial_spectrum(image[None])[1][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.2])
def test_blur_attenuates_as_the_gaussian_does(sigma: float) -> None:
    """The transfer function of a Gaussian is exp(-2 pi^2 sigma^2 f^2), here compared in dB."""
    sharp = 128 + 45 * np.random.default_rng(0).normal(size=(150, 64, 64)).clip(-2.8, 2.8)
    blurred = gaussian_filter(sharp, (0, sigma, sigma), mode="wrap")
    frequency, before = radial_spectrum(to_uint8(sharp))
    after = radial_spectrum(to_uint8(blurred))[1]
    expected = -20 * math.log10(math.e) * 2 * (math.pi * sigma * frequency) ** 2
    seen = (frequency > 0.05) & (frequency < 0.3)  # above, aliases of the Gaussian and rounding join in
    assert (after.mean(0) - before.mean(0))[seen] == pytest.approx(expected[seen], abs=0.4)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("grey", [0, 7, 255])
def test_a_constant_image_lies_at_the_level_of_rounding(shape: tuple[int, int], grey: int) -> None:
    constant, noise = np.full((3, *shape), grey, np.uint8), white(3, shape)
    assert radial_spectrum(constant)[1] == pytest.approx(ROUNDING_DB)
    for sides in ((constant, constant, constant), (noise, constant, noise), (constant, noise, constant)):
        parts = [v.values() if isinstance(v, dict) else [v] for v in asdict(compare_spectra(*sides)).values()]
        values = [np.atleast_1d(v) for part in parts for v in part]
        assert np.isfinite(np.concatenate(values)).all()


def test_figures_follow_from_the_curves() -> None:
    real, other, fake = natural(60, 64, 0), natural(60, 64, 1), natural(60, 64, 2)
    fake = to_uint8(gaussian_filter(fake.astype(float), (0, 1, 1)))
    s = compare_spectra(real, fake, other)
    level = {name: radial_spectrum(x)[1] for name, x in (("real", real), ("fake", fake), ("other", other))}
    difference = level["fake"].mean(0) - level["real"].mean(0)
    assert s.real == pytest.approx(level["real"].mean(0))
    assert s.real_sd == pytest.approx(level["real"].std(0))
    assert s.difference == pytest.approx(difference)
    assert s.rms_db == pytest.approx(math.sqrt((difference**2).mean()))
    assert s.rms_db_real_baseline == pytest.approx(math.sqrt(((level["other"].mean(0) - s.real) ** 2).mean()))
    assert s.high_db == pytest.approx(difference[-11:].mean())  # 22/64 to 32/64
    assert s.high_db < -5
    swapped = compare_spectra(real, other, fake)
    assert (s.high_db_real_baseline, s.checkerboard_db_real_baseline) == (swapped.high_db, swapped.checkerboard_db)
    chances = [v for v in asdict(s).values() if isinstance(v, dict)]
    curves = [v for v in asdict(s).values() if isinstance(v, tuple)]
    assert all(type(v) is float for curve in curves for v in curve)
    assert all(type(v) is float for chance in chances for v in chance.values())
    assert len(chances) == 3


def test_one_distribution_shows_nothing() -> None:
    s = compare_spectra(natural(100, 64, 0), natural(100, 64, 1), natural(100, 64, 2))
    assert s.rms_db < 2 * s.rms_db_real_baseline < 1
    assert abs(s.high_db) < 0.2
    assert -0.5 < s.checkerboard_db < 2
    assert interpretation(s) == "as sharp as real images within 1.0 dB"


@pytest.mark.parametrize("side", [28, 45, 64, 101])
@pytest.mark.parametrize("period", [2, 4])
def test_a_faint_checkerboard_is_seen(side: int, period: int) -> None:
    """Two grey levels up or down, at odd sizes as well, where no Fourier bin lies at one half."""
    real, fake, other = (natural(150, side, seed) for seed in range(3))
    planted = compare_spectra(real, to_uint8(fake + 2 * board(side, period)), other)
    assert planted.checkerboard_db > 8
    assert "a checkerboard peak of" in interpretation(planted)
    assert compare_spectra(real, fake, other).checkerboard_db < CHECKERBOARD_DB
    assert compare_spectra(to_uint8(real + 2 * board(side, period)), fake, other).checkerboard_db < CHECKERBOARD_DB


@pytest.mark.parametrize("point", range(len(GRID_POINTS)))
def test_each_grid_point_answers_for_its_own_wave(point: int) -> None:
    """A wave of one grid frequency stands out there and nowhere else."""
    fy, fx = GRID_POINTS[point]
    rows, columns = np.mgrid[:48, :48]
    images = natural(60, 48, 0)
    wave = np.cos(2 * np.pi * (fy * rows + fx * columns) + 0.3)
    gained = grid_peaks(to_uint8(images + 3 * wave)) - grid_peaks(images)
    assert gained.argmax() == point
    assert gained[point] > 10
    assert np.abs(np.delete(gained, point)).max() < 1.5


@pytest.mark.parametrize("side", [44, 45])
@pytest.mark.parametrize("point", range(len(GRID_POINTS)))
def test_a_wave_stands_out_by_its_power(point: int, side: int) -> None:
    """Above white noise the height has a closed form, at odd sizes too; waves of one half mirror themselves."""
    rows, columns = np.mgrid[:side, :side]
    fy, fx = GRID_POINTS[point]
    noise = 8 * np.random.default_rng(0).normal(size=(150, side, side))
    wave = 20 * np.cos(2 * np.pi * (fy * rows + fx * columns))
    power = 20**2 / (1 if {fy, fx} <= {0, 0.5} else 4)
    gain = (2 / 3 * side) ** 2  # in each direction (sum w)^2 / sum w^2 of a Hann window is 2/3 of its length
    excess = grid_peaks(to_uint8(128 + noise + wave))[point] - 10 * math.log10(power * gain / 8**2)
    assert 0 < excess < 1.2  # dividing by the mean of few noisy values adds something


def test_grid_points_are_all_multiples_of_a_quarter() -> None:
    both = {(sign * fy % 1, sign * fx % 1) for fy, fx in GRID_POINTS for sign in (1, -1)}
    quarters = (0, 0.25, 0.5, 0.75)
    assert both == {(fy, fx) for fy in quarters for fx in quarters} - {(0, 0)}
    assert len(GRID_POINTS) == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda x: gaussian_filter(x, (0, 1, 1)),
        lambda x: x + 6 * np.random.default_rng(3).normal(size=x.shape),
        lambda x: 128 + 0.6 * (x - 128),
    ],
    ids=["blur", "noise", "contrast"],
)
@pytest.mark.parametrize("side", [28, 64])
def test_what_is_no_checkerboard_is_not_called_one(side: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real, fake, other = (natural(150, side, seed) for seed in range(3))
    changed = compare_spectra(real, to_uint8(change(fake.astype(float))), other)
    assert changed.rms_db > 1
    assert changed.checkerboard_db < CHECKERBOARD_DB


@pytest.mark.parametrize("fake", [white(40, (32, 32)), np.zeros((40, 32, 32), np.uint8)], ids=["noise", "black"])
def test_no_peak_is_called_where_only_real_spectra_are_steep(fake: np.ndarray) -> None:
    """Power at a grid point lies far below its neighbourhood in smooth images, and beside it in noise and in black."""
    real, other = fields(40, 1), fields(40, 2)
    s = compare_spectra(real, fake, other)
    assert s.checkerboard_db > CHECKERBOARD_DB, "the figure alone would be called a peak"
    assert "checkerboard" not in interpretation(s)


def test_likeness_of_few_images_is_said_with_reserve() -> None:
    few, many = (compare_spectra(*(white(n, (16, 16), seed=seed) for seed in (1, 2, 3))) for n in (5, 40))
    assert "as far as 5 images show" in interpretation(replace(few, high_db=0.0, rms_db=0.0))
    assert "as far as" not in interpretation(many)


def test_readings() -> None:
    blank = Spectrum(
        (0.5,),
        (0.0,),
        (0.0,),
        (1.0,),
        (0.0,),
        rms_db=0.5,
        rms_db_real_baseline=0.3,
        high_db=0.4,
        high_db_real_baseline=0.1,
        checkerboard_db=0.6,
        checkerboard_db_real_baseline=0.5,
    )
    assert interpretation(blank) == "as sharp as real images within 1.0 dB"
    assert (
        interpretation(replace(blank, rms_db_real_baseline=1.6, high_db=-1.5))
        == "as sharp as real images within 1.6 dB"
    )
    assert interpretation(replace(blank, high_db=-7.04)) == "7.0 dB less fine detail than real images: blurred"
    assert interpretation(replace(blank, high_db=3.25)) == "3.2 dB more fine detail than real images: noisy"
    assert interpretation(replace(blank, rms_db=4.0)).endswith(
        "but 4.0 dB off over all frequencies (two real sets: 0.3)"
    )
    assert interpretation(replace(blank, high_db=-7.0, checkerboard_db=9.0)).endswith(
        "blurred; a checkerboard peak of 9.0 dB"
    )


def test_bad_input_is_one_line() -> None:
    good = white(2, (16, 16))
    for bad in (good[:0], good[0], good.astype(np.float32), white(2, (15, 40))):
        with pytest.raises(BalancerError, match="expected grey uint8 images"):
            radial_spectrum(bad)
    with pytest.raises(BalancerError, match=r"one size; got \(16, 16\) and \(16, 18\)"):
        compare_spectra(good, white(2, (16, 18)), good)


@pytest.mark.realdata
@pytest.mark.nightly
def test_on_real_chests(real_data: Path) -> None:
    data = load_dataset(DataConfig(path=str(real_data), image_size=64))
    normal = np.random.default_rng(0).permutation(data.indices("train", 0))
    real = data.images[data.indices("val", 0)]
    other, fake = data.images[normal[:202]], data.images[normal[202:404]].astype(float)
    same = compare_spectra(real, to_uint8(fake), other)
    assert same.rms_db < 1
    assert abs(same.high_db) < 1
    assert same.checkerboard_db < CHECKERBOARD_DB
    blurred = compare_spectra(real, to_uint8(gaussian_filter(fake, (0, 1, 1))), other)
    assert blurred.high_db < -8
    assert "blurred" in interpretation(blurred)
    assert blurred.checkerboard_db < CHECKERBOARD_DB
    for period in (2, 4):
        assert compare_spectra(real, to_uint8(fake + 3 * board(64, period)), other).checkerboard_db > 6
    noisy = compare_spectra(real, to_uint8(fake + 5 * np.random.default_rng(0).normal(size=fake.shape)), other)
    assert "noisy" in interpretation(noisy)
    assert noisy.checkerboard_db < CHECKERBOARD_DB
    print(*(interpretation(s) for s in (same, blurred, noisy)), sep="\n")
