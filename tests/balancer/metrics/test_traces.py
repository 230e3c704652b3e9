"""Traces of a generator, against closed forms: what was planted in images is put on others, and nothing else."""

import numpy as np
import pytest

from balancer.core.errors import BalancerError
from balancer.metrics.traces import TRACES, mean_residual

Array = np.ndarray
SHAPES = [(16, 16), (15, 18), (16, 16, 3)]


def noise(n: int, shape: tuple[int, ...], seed: int, grey: float = 120) -> Array:
    """Smooth enough never to reach 0 or 255."""
    values = np.random.default_rng(seed).normal(grey, 20, (n, *shape))
    return np.clip(np.rint(values), 40, 200).astype(np.uint8)


def wave(shape: tuple[int, ...], u: int, v: int, amplitude: float) -> Array:
    """A sinusoid of u and v cycles an image; of colour images in the second channel alone."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = amplitude * np.cos(2 * np.pi * (u * rows / shape[0] + v * columns / shape[1]))
    return values if len(shape) == 2 else values[..., None] * np.array([0, 1, 0])


def amplitudes(images: Array) -> Array:
    """By NumPy's full transform, where the trace uses SciPy's half of it."""
    return np.abs(np.fft.fft2(images.astype(float), axes=(1, 2))).mean(axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_planted_wave_is_where_it_was_planted_and_nowhere_else(shape: tuple[int, ...]) -> None:
    plain = noise(60, shape, 1)
    marked = np.rint(plain + wave(shape, 3, 5, 12.0)).astype(np.uint8)
    others = noise(40, shape, 2)
    ratio = amplitudes(marked) / amplitudes(plain)
    moved = amplitudes(TRACES["spectrum"].fit(marked, plain)(others)) / amplitudes(others)
    assert moved == pytest.approx(ratio, rel=0.03)  # rounding
    peak = (3, 5, 1)[: len(shape)]
    assert np.unravel_index(moved.argmax(), moved.shape) in {peak, ((-3) % shape[0], (-5) % shape[1], 1)[: len(shape)]}
    assert moved[peak] > 4
    elsewhere = np.ones(shape, bool)
    for u, v in ((3, 5), (-3, -5)):
        elsewhere[(u % shape[0], v % shape[1], 1)[: len(shape)]] = False
    assert moved[elsewhere] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pattern_of_fixed_phase_is_added_as_it_is(shape: tuple[int, ...]) -> None:
    """A checkerboard has no mean over 3 x 3 pixels but a ninth of its own."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    board = 9.0 * (1 - 2 * ((rows + columns) % 2))
    board = board if len(shape) == 2 else board[..., None] * np.array([0, 1, 0])
    plain, others = noise(60, shape, 1), noise(20, shape, 2)
    put = TRACES["residual"].fit(np.rint(plain + board).astype(np.uint8), plain)
    added = put(others).astype(float) - others
    inside = (slice(None), slice(1, -1), slice(1, -1))
    assert added[inside] == pytest.approx(np.broadcast_to(8 / 9 * board, added.shape)[inside], abs=1e-9)


def test_the_mean_residual_is_the_mean_of_residuals() -> None:
    images = noise(9, (12, 14), 3)
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    assert mean_residual(images) == pytest.approx((images - windows.mean(axis=(3, 4))).mean(axis=0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRACES)
def test_nothing_is_put_on_images_by_a_set_against_itself(name: str, shape: tuple[int, ...]) -> None:
    images, others = noise(12, shape, 4), noise(150, shape, 5)
    others[0] = 0
    others[1] = 255
    assert np.array_equal(TRACES[name].fit(images, images)(others), others)


@pytest.mark.parametrize("name", TRACES)
def test_images_without_detail_give_finite_pixels(name: str) -> None:
    """Flat images have no amplitude but that of their mean."""
    flat, images = np.full((3, 16, 16), 7, np.uint8), noise(3, (16, 16), 6)
    for sides in ((flat, images), (images, flat)):
        traced = TRACES[name].fit(*sides)(images)
        assert (traced.shape, traced.dtype) == (images.shape, np.uint8)


@pytest.mark.parametrize("name", TRACES)
def test_sets_that_do_not_fit_are_refused(name: str) -> None:
    images = noise(3, (16, 16), 7)
    for marked in (images[:0], images[:, :8], images.astype(float), noise(3, (16, 16, 3), 7)):
        with pytest.raises(BalancerError, match="a trace is fitted to two sets") as caught:
            TRACES[name].fit(marked, images)
        assert "\n" not in str(caught.value)
