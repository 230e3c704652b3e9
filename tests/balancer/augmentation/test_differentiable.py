"""DiffAugment against plain loops over images with the same draws."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from balancer.augmentation.differentiable import DIFFAUGMENT, check_policy, contrast, cutout, diff_augment, translation
from balancer.core.errors import UsageError

SHAPES = [(6, 3, 16, 16), (6, 1, 16, 16), (5, 1, 20, 12), (1, 1, 17, 33), (3, 3, 12, 20)]


def source(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(shape: tuple[int, ...] = SHAPES[0]) -> Tensor:
    return 2 * torch.rand(shape, generator=source(1)) - 1


def slow_brightness(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    draws = torch.rand(len(images), 1, 1, 1, generator=g).flatten().tolist()
    return np.stack([image + (u - 0.5) for image, u in zip(images, draws, strict=True)])


def slow_contrast(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    draws = torch.rand(len(images), 1, 1, 1, generator=g).flatten().tolist()
    return np.stack([(x - x.mean()) * (u + 0.5) + x.mean() for x, u in zip(images, draws, strict=True)])


def slow_translation(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    n, _, height, width = images.shape
    reach_y, reach_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    down = torch.randint(-reach_y, reach_y + 1, (n, 1), generator=g).flatten().tolist()
    right = torch.randint(-reach_x, reach_x + 1, (n, 1), generator=g).flatten().tolist()
    moved = np.zeros_like(images)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                if 0 <= y - down[i] < height and 0 <= x - right[i] < width:
                    moved[i, :, y, x] = images[i, :, y - down[i], x - right[i]]
    return moved


def slow_cutout(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    n, _, height, width = images.shape
    half_y, half_x = int(height / 2 + 0.5) // 2, int(width / 2 + 0.5) // 2
    centre_y = torch.randint(0, height, (n, 1), generator=g).flatten().tolist()
    centre_x = torch.randint(0, width, (n, 1), generator=g).flatten().tolist()
    cut = images.copy()
    for i in range(n):
        top, left = max(0, centre_y[i] - half_y), max(0, centre_x[i] - half_x)
        cut[i, :, top : centre_y[i] + half_y, left : centre_x[i] + half_x] = 0
    return cut


def slow_saturation(images: np.ndarray, g: torch.Generator) -> np.ndarray:
    draws = torch.rand(len(images), 1, 1, 1, generator=g).flatten().tolist()
    changed = np.empty_like(images)
    for image, out, u in zip(images, changed, draws, strict=True):
        for y, x in np.ndindex(image.shape[1:]):
            mean = image[:, y, x].mean()
            out[:, y, x] = mean + 2 * u * (image[:, y, x] - mean)
    return changed


SLOW: dict[str, Callable[[np.ndarray, torch.Generator], np.ndarray]] = {
    "brightness": slow_brightness,
    "contrast": slow_contrast,
    "saturation": slow_saturation,
    "translation": slow_translation,
    "cutout": slow_cutout,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", list(DIFFAUGMENT))
def test_against_a_loop(name: str, shape: tuple[int, ...]) -> None:
    images = batch(shape)
    for seed in range(8):
        expected = SLOW[name](images.numpy(), source(seed))
        np.testing.assert_allclose(DIFFAUGMENT[name](images, source(seed)).numpy(), expected, atol=1e-6)


def test_policy_applies_operations_in_order() -> None:
    images, g = batch(), source()
    expected = images.numpy()
    for name in ("cutout", "brightness", "translation"):
        expected = SLOW[name](expected, g)
    result = diff_augment(images, ("cutout", "brightness", "translation"), source())
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert diff_augment(images, (), source()) is images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", list(DIFFAUGMENT))
def test_contract(name: str, dtype: torch.dtype) -> None:
    """Shape, type, determinism, and the input untouched."""
    for shape in SHAPES:
        images = batch(shape).to(dtype)
        before = images.clone()
        result = DIFFAUGMENT[name](images, source())
        assert result.shape == images.shape
        assert result.dtype == dtype
        assert torch.equal(result, DIFFAUGMENT[name](images, source()))
        assert torch.equal(images, before)
    assert not torch.equal(DIFFAUGMENT[name](batch(), source(1)), DIFFAUGMENT[name](batch(), source(2)))


@pytest.mark.parametrize("name", list(DIFFAUGMENT))
def test_gradients_flow(name: str) -> None:
    """Every operation is linear or affine in the image, so a finite difference is exact."""
    images = batch().double().requires_grad_(True)
    weight = torch.randn(images.shape, generator=source(2)).double()
    (DIFFAUGMENT[name](images, source()) * weight).sum().backward()
    direction = torch.randn(images.shape, generator=source(3)).double()
    with torch.no_grad():
        moved = DIFFAUGMENT[name](images + direction, source()) - DIFFAUGMENT[name](images, source())
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    torch.testing.assert_close((images.grad * direction).sum(), (moved * weight).sum())


def test_every_image_has_its_own_draw() -> None:
    same = batch()[:1].expand(32, -1, -1, -1)
    for name, operation in DIFFAUGMENT.items():
        assert len(torch.unique(operation(same, source()).flatten(1), dim=0)) > 12, name


def test_cutout_area() -> None:
    """A quarter of the image when the square lies inside, at least a sixteenth in a corner."""
    images = torch.ones(400, 1, 16, 16)
    areas = (cutout(images, source()) == 0).sum(dim=(1, 2, 3))
    assert areas.max() == 64
    assert areas.min() >= 16
    assert (areas == 64).float().mean() > 0.2


def test_translation_reaches_an_eighth_and_brings_in_zero() -> None:
    images = torch.ones(400, 1, 16, 16)
    moved = translation(images, source())
    rows = (moved.amax(dim=(1, 3)) == 0).sum(dim=1)
    assert rows.max() == 2
    assert set(moved.unique().tolist()) == {0.0, 1.0}


def test_translation_by_zero_changes_nothing() -> None:
    images = batch((4, 1, 8, 8))
    assert torch.equal(translation(images, source(), ratio=0.0), images)


def test_contrast_keeps_the_mean() -> None:
    images = batch((50, 1, 8, 8))
    torch.testing.assert_close(contrast(images, source()).mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))


def test_probability_zero_changes_nothing_and_one_everything() -> None:
    images, policy = batch((200, 1, 8, 8)), tuple(DIFFAUGMENT)
    assert torch.equal(diff_augment(images, policy, source(), torch.tensor(0.0)), images)
    for name in DIFFAUGMENT:
        expected = DIFFAUGMENT[name](images, source())
        assert torch.equal(diff_augment(images, (name,), source(), torch.tensor(1.0)), expected)


def test_each_operation_changes_each_image_with_the_probability() -> None:
    """Independently for every image and every operation: at p, two operations leave (1 - p)^2 of the images alone."""
    images = batch((4000, 1, 4, 4))
    for p in (0.1, 0.5, 0.8):
        for policy in (("brightness",), ("brightness", "contrast"), ("contrast", "brightness", "contrast")):
            result = diff_augment(images, policy, source(), torch.tensor(p))
            alone = (result == images).flatten(1).all(1).double()
            assert alone.mean().item() == pytest.approx((1 - p) ** len(policy), abs=0.03)
            both = (alone[1:] * alone[:-1]).mean().item()
            assert both == pytest.approx(alone.mean().item() ** 2, abs=0.03), "neighbours share no draw"


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_an_image_is_changed_whole_or_not_at_all(p: float) -> None:
    images = batch((300, 1, 8, 8))
    changed = diff_augment(images, ("brightness",), source(), torch.tensor(p)) - images
    spread = changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert spread.max() < 1e-6


def test_gradients_flow_whatever_the_probability() -> None:
    for p in (0.0, 0.5, 1.0):
        images = batch((50, 1, 8, 8)).requires_grad_(True)
        diff_augment(images, ("brightness", "translation"), source(), torch.tensor(p)).sum().backward()
        assert images.grad is not None
        assert torch.isfinite(images.grad).all()
        assert (images.grad.flatten(1).sum(1) > 0).all()


def test_never_flips() -> None:
    """Dark on the left, bright on the right stays so; and top against bottom."""
    ramp = torch.linspace(-1, 1, 16).repeat(200, 1, 16, 1)
    policy = ("brightness", "contrast", "translation")
    for images, axis in ((ramp, 3), (ramp.transpose(2, 3), 2)):
        result = diff_augment(images, policy, source())
        low, high = result.narrow(axis, 3, 5), result.narrow(axis, 8, 5)
        assert (low.mean(dim=(1, 2, 3)) < high.mean(dim=(1, 2, 3))).all()


def test_unknown_operation() -> None:
    with pytest.raises(UsageError, match="did you mean 'cutout'"):
        check_policy(["brightness", "cutoff"])
    check_policy(list(DIFFAUGMENT))
