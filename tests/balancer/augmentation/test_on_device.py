"""The device's versions of the presets against albumentations: each change on its own, then the statistics of all."""

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from albucore import add, multiply_add
from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d
from albumentations.augmentations.geometric.functional import center, create_affine_transformation_matrix
from albumentations.augmentations.pixel.functional import gamma_transform
from scipy import stats
from streams import global_streams_untouched

from balancer.augmentation.classical import CLASSICAL, Augmenter, _within
from balancer.augmentation.on_device import DeviceAugmenter, _Draws, add_noise, blur, expose, gamma, pose, sharpen, warp
from balancer.augmentation.ranges import RANGES
from balancer.core.errors import UsageError

Array = np.ndarray
SIZE = 64
Augment = Callable[[Array, Array, int], Array]


def on_device(preset: str, seed: int, flips: bool = False) -> Augment:
    augment = DeviceAugmenter(preset, seed, flips)
    return lambda images, index, draw: augment(torch.from_numpy(images.copy()), index, draw).numpy()


def texture(*shape: int) -> Array:
    """Blocks of 4 px with an edge everywhere, smooth enough to be interpolated."""
    blocks = np.random.default_rng(0).integers(20, 235, (*shape[:1], shape[1] // 4, shape[2] // 4))
    image = np.kron(blocks, np.ones((4, 4))).astype(np.uint8)
    return np.stack([cv2.blur(one, (3, 3)) for one in image])


def as_tensor(images: Array) -> torch.Tensor:
    return torch.from_numpy(images).float()[:, None]


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_pose_is_that_of_albumentations(size: tuple[int, int]) -> None:
    """Its own matrix, and OpenCV's warp."""
    images = texture(3, *size)
    angle, shift = (10.0, -7.0, 0.0), ((5.0, -3.0), (-2.0, 6.0), (4.0, 0.0))
    shear, zoom = ((4.0, -8.0, 0.0), (-5.0, 2.0, 0.0)), ((0.9, 1.1, 1.0), (1.15, 0.85, 1.0))
    as_torch = tuple(torch.tensor(v) for v in shear), tuple(torch.tensor(v) for v in zoom)
    moved = warp(as_tensor(images), pose(torch.tensor(angle), *as_torch), torch.tensor(shift))
    for i, image in enumerate(images):
        matrix = create_affine_transformation_matrix(
            {"x": shift[i][0], "y": shift[i][1]},
            {"x": shear[0][i], "y": shear[1][i]},
            {"x": zoom[0][i], "y": zoom[1][i]},
            angle[i],
            center(size),
        )
        expected = cv2.warpAffine(image, matrix[:2], size[::-1], flags=cv2.INTER_LINEAR)
        difference = np.abs(moved[i, 0].numpy() - expected)
        assert difference.mean() < 0.6, "OpenCV's places are multiples of 1/32 px"
        assert np.quantile(difference, 0.99) <= 4


def test_exposure_is_that_of_albumentations() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    for made, change in (
        (gamma(as_tensor(images), column([0.6, 1.2, 1.65])), lambda x, i: gamma_transform(x, (0.6, 1.2, 1.65)[i])),
        (
            expose(as_tensor(images), column([0.7, 1.3, 1.0]), column([51.0, -40.5, 3.0])),
            lambda x, i: multiply_add(x, (0.7, 1.3, 1.0)[i], (51.0, -40.5, 3.0)[i]),
        ),
    ):
        for i, image in enumerate(images):
            difference = np.abs(made[i, 0].numpy() - change(image, i).astype(float))
            assert difference.max() <= 1
            assert (difference == 0).mean() > 0.97, "numbers beside a whole one may be cut to either side"


def test_sharpness_is_that_of_albumentations() -> None:
    images, sigmas, strengths = texture(3, 64, 64), (0.2, 0.8, 1.5), (0.1, 0.25, 0.4)
    blurred = blur(as_tensor(images), column(list(sigmas)), 1.5)
    sharp = sharpen(as_tensor(images), column(list(strengths)), column([0.5, 0.75, 1.0]))
    for i, image in enumerate(images):
        kernel = create_gaussian_kernel_1d(sigmas[i])
        assert np.abs(blurred[i, 0].numpy() - cv2.sepFilter2D(image, -1, kernel, kernel)).max() <= 1
        effect = np.full((3, 3), -1.0)
        effect[1, 1] = 8 + (0.5, 0.75, 1.0)[i]
        whole = (1 - strengths[i]) * np.pad([[1.0]], 1) + strengths[i] * effect
        assert np.abs(sharp[i, 0].numpy() - cv2.filter2D(image, -1, whole.astype(np.float32))).max() <= 1


def test_noise_is_that_of_albumentations() -> None:
    """It loses its fraction; the numbers are normal, and independent of their neighbours."""
    flat = np.full((SIZE, SIZE), 100, np.uint8)
    noise = np.random.default_rng(0).normal(0, 60, flat.shape).astype(np.float32)
    ours = add_noise(torch.from_numpy(flat).float(), torch.from_numpy(noise))
    assert np.array_equal(ours.numpy(), add(flat, noise).astype(float))
    draws = _Draws(0, torch.arange(4), shared_numbers=True)
    normal = draws.normal(torch.Size((4, 1, 200, 200))).flatten().double().numpy()
    assert stats.kstest(normal[::7], "norm").pvalue > 0.01
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.01
    uniform = _Draws(1, torch.arange(5000), shared_numbers=True).uniform(2).double().numpy()
    assert stats.kstest(uniform[:, 0], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(uniform.T)[0, 1]) < 0.05


def dot(x: float, y: float) -> Array:
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return (255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)).astype(np.uint8)


def centroids(images: Array) -> Array:
    """(n, 2): x and y from the centre, of the bright part of each image."""
    weight = np.where(images > 60, images.astype(float), 0)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight * columns).sum(axis=(1, 2)), (weight * rows).sum(axis=(1, 2))], 1) / total[:, None]


def figures(augment: Augment, draws: int) -> dict[str, Array]:
    """Pose, levels, noise and sharpness of as many draws, each read off images that are known."""
    index, reach = np.arange(draws), 12
    step = np.full((SIZE, SIZE), 90, np.uint8)
    step[:, SIZE // 2 :] = 160
    fine = np.tile(np.array([[110, 140], [140, 110]], np.uint8), (SIZE // 2, SIZE // 2)).repeat(2, 0).repeat(2, 1)
    fine = fine[:SIZE, :SIZE]
    known = [dot(0, 0), dot(reach, 0), dot(0, reach), step, fine]
    seen = [augment(np.repeat(image[None], draws, 0), index, 0) for image in known]
    origin, right, below = (centroids(images) for images in seen[:3])
    u, v = (right - origin) / reach, (below - origin) / reach
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    low, high = seen[3][:, middle, 16:22].astype(float), seen[3][:, middle, 42:48].astype(float)
    inner = seen[4][:, 22:42, 22:42].astype(float)
    return {
        "angle": np.degrees(np.arctan2(u[:, 1], u[:, 0])),
        "zoom x": np.hypot(*u.T),
        "zoom y": np.hypot(*v.T),
        "shear": (u * v).sum(axis=1),
        "x": origin[:, 0],
        "y": origin[:, 1],
        "darker level": np.median(low, axis=(1, 2)),
        "contrast": np.median(high, axis=(1, 2)) - np.median(low, axis=(1, 2)),
        "noise": low.std(axis=(1, 2)),
        "sharpness": np.abs(np.diff(inner, axis=2)).mean(axis=(1, 2)),
    }


def check_statistics(preset: str, draws: int) -> None:
    ours, theirs = figures(on_device(preset, 1), draws), figures(Augmenter(preset, 2), draws)
    for name in ours:
        assert stats.ks_2samp(ours[name], theirs[name]).pvalue > 0.001, name
    for name, value in (("darker level", 90), ("noise", 0)):  # of images that changes leave alone
        shares = [np.mean(np.abs(side[name] - value) < 0.5) for side in (ours, theirs)]
        assert abs(shares[0] - shares[1]) < 3.5 * math.sqrt(0.5 / draws), name


POSE = ("angle", "shift", "zoom", "shear")
ALONE = {"pose": POSE, "gamma": ("p_gamma",), "exposure": ("p_exposure",), "sharpness": ("p_sharpness",)}
PRESETS = [p if r.shared_numbers else pytest.param(p, marks=pytest.mark.nightly) for p, r in RANGES.items()]
ALONE |= {"noise": ("p_noise",)}


@pytest.mark.parametrize("change", list(ALONE))
@pytest.mark.parametrize("preset", ["strong", pytest.param("mild", marks=pytest.mark.nightly)])
def test_each_change_on_its_own(preset: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in every image, all others left out: mean and spread of grey levels are distributed as albumentations'."""
    real, still = RANGES[preset], (0.0, 0.0)
    none = replace(real, angle=still, shift=still, zoom=(1.0, 1.0), shear=still)
    none = replace(none, p_gamma=0, p_exposure=0, p_sharpness=0, p_noise=0)
    values = {name: getattr(real, name) if name in POSE else 1.0 for name in ALONE[change]}
    monkeypatch.setitem(RANGES, preset, replace(none, **values))
    monkeypatch.setitem(CLASSICAL, preset, lambda: _within(RANGES[preset]))
    images = np.repeat(texture(1, 24, 24), 400, 0)
    sides = [augment(images, np.arange(400), 0) for augment in (on_device(preset, 1), Augmenter(preset, 2))]
    for figure in (lambda x: x.mean(axis=(1, 2)), lambda x: x.std(axis=(1, 2))):
        assert stats.ks_2samp(*map(figure, sides)).pvalue > 0.01


@pytest.mark.parametrize("shared_numbers", [True, False])
def test_changes_share_numbers_only_where_the_preset_says_so(shared_numbers: bool) -> None:
    draws, numbers = _Draws(0, torch.arange(2000), shared_numbers), []
    for _ in range(2):
        draws.begin_change()
        numbers.append(draws.uniform()[:, 0].numpy())
    correlation = np.corrcoef(numbers)[0, 1]
    assert correlation == pytest.approx(1.0) if shared_numbers else abs(correlation) < 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("preset", list(RANGES))
def test_statistics_of_many_draws(preset: str) -> None:
    """Displacement, angle, levels, contrast, noise, sharpness: two-sample Kolmogorov-Smirnov, 1,500 draws a side."""
    check_statistics(preset, 1500)


@pytest.mark.parametrize("preset", PRESETS)
def test_statistics(preset: str) -> None:
    check_statistics(preset, 120)


@pytest.mark.nightly
def test_the_statistics_tell_presets_apart() -> None:
    """So that a test which passes says something."""
    ours, theirs = figures(on_device("mild", 1), 400), figures(Augmenter("strong", 2), 400)
    for name in ("angle", "zoom x", "x", "darker level", "contrast", "sharpness"):
        assert stats.ks_2samp(ours[name], theirs[name]).pvalue < 0.001, name


@pytest.mark.parametrize("preset", PRESETS)
def test_a_sample_depends_on_what_names_it(preset: str) -> None:
    """Same (seed, draw, row, index), same sample; whatever was drawn before and whatever else is in the batch."""
    images, index = np.repeat(dot(6, -3)[None], 6, 0), np.array([7, 1, 7, 3, 9, 2])
    augment = on_device(preset, 5)
    with global_streams_untouched():
        first = augment(images, index, 4)
    augment(images, index, 11)
    assert np.array_equal(augment(images, index, 4), first)
    assert np.array_equal(on_device(preset, 5)(images, index, 4), first)
    assert np.array_equal(augment(images[:3], index[:3], 4), first[:3])
    assert not np.array_equal(first[0], first[2]), "an image twice in a batch is changed in two ways"
    for changed in (on_device(preset, 6)(images, index, 4), augment(images, index, 5), augment(images, index + 1, 4)):
        assert not any(np.array_equal(a, b) for a, b in zip(changed, first, strict=True))


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 28, 28, 3), (0, 64, 64)])
@pytest.mark.parametrize("preset", PRESETS)
def test_shape_type_and_input_untouched(preset: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = torch.from_numpy(images.copy())
    changed = DeviceAugmenter(preset, 0)(pixels, np.arange(len(images)), 0)
    assert changed.shape == pixels.shape
    assert changed.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), images)
    if len(images):
        assert not torch.equal(changed, pixels)


def test_flips_that_the_data_allow() -> None:
    index, images = np.arange(60), texture(60, 32, 32)
    without, with_flips = (on_device("mild", 0, flips)(images, index, 0) for flips in (False, True))
    same = (with_flips == without).all(axis=(1, 2))
    assert (same | (with_flips == without[:, :, ::-1]).all(axis=(1, 2))).all()
    assert 15 < same.sum() < 45


def test_a_published_preset_has_no_version_on_the_device() -> None:
    with pytest.raises(UsageError, match="augment_on"):
        DeviceAugmenter("s3", 0)
