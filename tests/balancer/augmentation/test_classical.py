"""Classical presets, measured on images whose change can be read off."""

import itertools
import math
import warnings
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from streams import disturb_global_streams

from balancer.augmentation.classical import CLASSICAL, Augmenter
from balancer.core.errors import UsageError

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


def measured(preset: str, draws: int, reach: int = 12) -> dict[str, np.ndarray]:
    """Return rotation, zooms, shear and shifts of a draw, from where three spots ``reach`` pixels apart go."""
    augment = Augmenter(preset, seed=3)
    poses: dict[str, list[float]] = {k: [] for k in ("angle", "zoom_x", "zoom_y", "shear", "x", "y", "turn")}
    for draw in range(draws):
        origin, right, below = (
            centroid(augment(dot(*at)[None], np.array([0]), draw)[0]) for at in ((0, 0), (reach, 0), (0, reach))
        )
        u, v = (right - origin) / reach, (below - origin) / reach
        poses["angle"].append(math.degrees(math.atan2(u[1], u[0])))
        poses["zoom_x"].append(float(np.hypot(*u)))
        poses["zoom_y"].append(float(np.hypot(*v)))
        poses["shear"].append(90 - math.degrees(math.acos(u @ v / np.hypot(*u) / np.hypot(*v))))
        poses["x"].append(origin[0] / SIZE)
        poses["y"].append(origin[1] / SIZE)
        poses["turn"].append(u[0] * v[1] - u[1] * v[0])
    return {k: np.array(values) for k, values in poses.items()}


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


def test_s3_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter turn either way, both axes zoomed alike by 1 / 1.25 to 1 / .75, shifts of .2."""
    pose = CLASSICAL["s3"]()[:1]
    pose[0].border_mode = cv2.BORDER_CONSTANT  # a spot that is mirrored in would be taken for the spot
    monkeypatch.setitem(CLASSICAL, "s3", lambda: pose)
    seen = measured("s3", 200, reach=8)
    assert (seen["turn"] > 0).all(), "turned, but never mirrored"
    assert 78 < np.abs(seen["angle"]).max() < 94
    assert seen["angle"].min() < -70 < 70 < seen["angle"].max()
    assert np.abs(seen["zoom_x"] - seen["zoom_y"]).max() < 0.06, "one zoom for both axes"
    assert 0.77 < seen["zoom_x"].min() < 0.86
    assert 1.26 < seen["zoom_x"].max() < 1.37
    for key in ("x", "y"):
        assert 0.17 < np.abs(seen[key]).max() < 0.22


def test_s3_exposure_is_that_of_keras() -> None:
    """Brightness adds up to .2 of the range; contrast scales the distance from the image's own mean by .7 to 1.3.

    Keras's rule for grey levels a and b: the difference becomes f (b - a); their mean moves by the brightness alone.
    """
    two = np.full((SIZE, SIZE), 110, np.uint8)
    two[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4] = 140  # most of it stays in view, whatever the pose
    exposed = A.Compose(CLASSICAL["s3"]()[1:], strict=True)
    factors, moved = [], []
    for seed in range(300):
        exposed.set_random_seed(seed)
        image = exposed(image=two)["image"].astype(float)
        low, high = image[0, 0], image[SIZE // 2, SIZE // 2]
        factors.append((high - low) / 30)
        moved.append(image.mean() - two.mean())
    assert 0.63 < min(factors) < 0.76
    assert 1.24 < max(factors) < 1.37
    assert -53 < min(moved) < -44
    assert 44 < max(moved) < 53


@pytest.mark.parametrize(("preset", "angle", "shift"), [("s0", 10, 0.05), ("s1", 10, 0.0), ("s4", 20, 0.2)])
def test_published_poses(preset: str, angle: float, shift: float) -> None:
    """Read off what is left once the flip is undone: the map of a mirrored image turns the other way round."""
    seen = measured(preset, 200, reach=10)
    mirrored = seen["turn"] < 0
    assert 0.35 < mirrored.mean() < 0.65
    turned = np.where(mirrored, (180 - seen["angle"] + 180) % 360 - 180, seen["angle"])
    assert 0.85 * angle < np.abs(turned).max() < angle + 2.5
    assert np.abs(seen["zoom_x"] - 1).max() < 0.06
    for key in ("x", "y"):
        assert np.abs(seen[key]).max() < shift + 0.02
        assert np.abs(seen[key]).max() > 0.85 * shift


@pytest.mark.parametrize("preset", ["mild", "strong", "s2"])
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
def test_flips_that_the_data_allow(preset: str) -> None:
    """Half of the images are mirrored and nothing else is changed; presets that flip by themselves stay as they are."""
    rng, index = np.random.default_rng(0), np.arange(60)
    images = np.kron(rng.integers(20, 235, (60, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    without, with_flips = Augmenter(preset, 0)(images, index, 0), Augmenter(preset, 0, flips=True)(images, index, 0)
    same = (with_flips == without).all(axis=(1, 2))
    assert (same | (with_flips == without[:, :, ::-1]).all(axis=(1, 2))).all()
    assert same.all() if preset in ("s0", "s1", "s4") else 15 < same.sum() < 45


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


@pytest.mark.parametrize(
    ("preset", "black"), [("mild", True), ("s0", True), ("s1", True), ("s2", False), ("s4", False)]
)
def test_edges_are_black_or_repeated(preset: str, black: bool) -> None:
    grey = np.full((40, 32, 32), 200, dtype=np.uint8)
    changed = Augmenter(preset, 0)(grey, np.arange(40), 0)
    assert (changed < 60).any() if black else (changed == 200).all()


def test_edges_are_mirrored_under_s3() -> None:
    """Of an image that is symmetric about a line beside its edge, no new grey level can come in; black would."""
    assert CLASSICAL["s3"]()[0].border_mode == cv2.BORDER_REFLECT
    grey = np.full((40, 32, 32), 100, dtype=np.uint8)
    assert Augmenter("s3", 0)(grey, np.arange(40), 0).min() >= 100 - 52


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="did you mean 'mild'"):
        Augmenter("mildd", 0)


@pytest.mark.parametrize(("preset", "together"), [("mild", True), ("mild_independent", False)])
def test_blur_and_noise_come_together_only_where_changes_share_numbers(
    preset: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes in 30 % of the images, whichever preset."""
    made: list[set[str]] = []
    for change in (A.GaussianBlur, A.GaussNoise):

        def recorded(self: object, img: np.ndarray, *args: object, _plain: Any = change.apply, **more: object) -> Any:
            made[-1].add(type(self).__name__)
            return _plain(self, img, *args, **more)

        monkeypatch.setattr(change, "apply", recorded)
    augment, image = Augmenter(preset, 0), np.zeros((1, 16, 16), np.uint8)
    for i in range(400):
        made.append(set())
        augment(image, np.array([i]), 0)
    blurred, noisy = (np.array([name in of for of in made]) for name in ("GaussianBlur", "GaussNoise"))
    assert (blurred.mean(), noisy.mean()) == pytest.approx((0.3, 0.3), abs=0.08)
    assert (blurred == noisy).all() if together else abs(np.corrcoef(blurred, noisy)[0, 1]) < 0.2
