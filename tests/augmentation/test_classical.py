"""Classical presets, measured on images whose change can be read off."""

import itertools
import math
import warnings

import albumentations as A
import numpy as np
import pytest
from streams import disturb_global_streams

from balancer.augmentation.classical import CLASSICAL, Augmenter
from balancer.errors import UsageError

SIZE = 64


def dot(x: float, y: float) -> np.ndarray:
    """A soft bright spot at (x, y) from the image's centre."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return (250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    """(x, y) from the image's centre of the bright part."""
    weight = np.where(image > 60, image.astype(float), 0)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def measured(preset: str, draws: int) -> dict[str, np.ndarray]:
    """Where three spots go under the same draw gives the affine map: rotation, zooms, shear and shifts."""
    augment = Augmenter(preset, seed=3)
    found: dict[str, list[float]] = {k: [] for k in ("angle", "zoom_x", "zoom_y", "shear", "x", "y", "turn")}
    for draw in range(draws):
        origin, right, below = (
            centroid(augment(dot(*at)[None], np.array([0]), draw)[0]) for at in ((0, 0), (12, 0), (0, 12))
        )
        u, v = (right - origin) / 12, (below - origin) / 12
        found["angle"].append(math.degrees(math.atan2(u[1], u[0])))
        found["zoom_x"].append(float(np.hypot(*u)))
        found["zoom_y"].append(float(np.hypot(*v)))
        found["shear"].append(90 - math.degrees(math.acos(u @ v / np.hypot(*u) / np.hypot(*v))))
        found["x"].append(origin[0] / SIZE)
        found["y"].append(origin[1] / SIZE)
        found["turn"].append(u[0] * v[1] - u[1] * v[0])
    return {k: np.array(values) for k, values in found.items()}


def test_s2_ranges() -> None:
    """Rotation 35 degrees, shift .1 and .08, shear .2 degrees (not radians), zoom .2, each filling its range."""
    seen = measured("s2", 200)
    for key, limit, slack in (("angle", 35, 2.5), ("x", 0.1, 0.02), ("y", 0.08, 0.02)):
        assert np.abs(seen[key]).max() <= limit + slack, key
        assert seen[key].max() > 0.85 * limit, key
        assert seen[key].min() < -0.85 * limit, key
    for key in ("zoom_x", "zoom_y"):
        assert 0.75 < seen[key].min() < 0.84, key
        assert 1.16 < seen[key].max() < 1.25, key
    assert abs(np.corrcoef(seen["zoom_x"], seen["zoom_y"])[0, 1]) < 0.4, "each axis is zoomed by itself, as in Keras"
    assert np.abs(seen["shear"]).max() < 4, "degrees: .2 radians would be 11"
    assert np.abs(seen["x"] - seen["y"]).max() > 0.1, "shifts are drawn apart"


def test_mild_ranges() -> None:
    seen = measured("mild", 100)
    assert np.abs(seen["angle"]).max() < 17
    assert np.abs(seen["x"]).max() < 0.09
    assert np.abs(seen["y"]).max() < 0.09
    assert seen["zoom_x"].min() > 0.85
    assert seen["zoom_x"].max() < 1.17


@pytest.mark.parametrize("preset", list(CLASSICAL))
def test_never_mirrors(preset: str) -> None:
    assert (measured(preset, 60)["turn"] > 0.4).all(), "the map keeps its orientation"
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(20, 235, (4, 4)), np.ones((16, 16))).astype(np.uint8)
    image[:, :32] //= 3  # the right half is bright
    augment = Augmenter(preset, seed=0)
    results = augment(np.repeat(image[None], 100, 0), np.arange(100), 0).astype(float)
    to_self = np.abs(results - image).mean(axis=(1, 2))
    to_mirror = np.abs(results - image[:, ::-1]).mean(axis=(1, 2))
    assert (to_self < to_mirror).all()


@pytest.mark.parametrize("preset", list(CLASSICAL))
def test_valid_under_strict(preset: str) -> None:
    """Without strict, albumentations drops an argument that it does not know, with a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = A.Compose(CLASSICAL[preset](), strict=True)
        Augmenter(preset, 0)
    assert pipeline.strict


@pytest.mark.parametrize(("preset", "size"), list(itertools.product(CLASSICAL, (16, 28, 64))))
def test_shape_type_and_input_untouched(preset: str, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, size, size), dtype=np.uint8)
    before = images.copy()
    images.flags.writeable = False  # as a memory map is
    result = Augmenter(preset, 0)(images, np.arange(4), 0)
    assert result.shape == images.shape
    assert result.dtype == np.uint8
    assert np.array_equal(images, before)
    assert not np.array_equal(result, images)
    assert Augmenter(preset, 0)(images[:0], np.arange(0), 0).shape == (0, size, size)


@pytest.mark.parametrize("preset", list(CLASSICAL))
def test_a_sample_depends_on_what_names_it(preset: str) -> None:
    """Same (seed, draw, row, index), same sample; whatever was drawn before and whatever else is in the batch."""
    images = np.repeat(dot(6, -3)[None], 6, 0)
    index = np.array([7, 1, 7, 3, 9, 2])
    augment = Augmenter(preset, 5)
    first = augment(images, index, 4)
    augment(images, index, 11)
    disturb_global_streams(1)
    assert np.array_equal(augment(images, index, 4), first)
    assert np.array_equal(Augmenter(preset, 5)(images, index, 4), first)
    assert np.array_equal(augment(images[:3], index[:3], 4), first[:3])
    other = images.copy()
    other[1:] = 0
    assert np.array_equal(augment(other, index, 4)[0], first[0])
    assert not np.array_equal(first[0], first[2]), "an image twice in a batch is changed in two ways"
    for changed in (Augmenter(preset, 6)(images, index, 4), augment(images, index, 5), augment(images, index + 1, 4)):
        assert not any(np.array_equal(a, b) for a, b in zip(changed, first, strict=True))


def test_edges_are_repeated_under_s2_and_black_under_mild() -> None:
    grey = np.full((40, 32, 32), 200, dtype=np.uint8)
    assert (Augmenter("s2", 0)(grey, np.arange(40), 0) == 200).all()
    assert (Augmenter("mild", 0)(grey, np.arange(40), 0) < 60).any()


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="did you mean 'mild'"):
        Augmenter("mildd", 0)
