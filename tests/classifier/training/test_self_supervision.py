"""Self-supervised objectives against closed forms in numpy, and what a view may change."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from balancer.core.seeding import generator
from balancer.core.settings import PretrainConfig
from classifier.analysis.pretraining import NAMES
from classifier.training.self_supervision import OBJECTIVES, VICReg, simsiam_loss, spread, view


def test_settings_and_titles_name_every_objective() -> None:
    named = set(get_args(PretrainConfig.model_fields["method"].annotation))
    assert named - {"none"} == set(OBJECTIVES) == set(NAMES)


def noise(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_simsiam_by_hand() -> None:
    predicted, outputs = noise(10, 7, 0).double(), noise(10, 7, 1).double()
    p, z = predicted.numpy(), outputs.numpy()
    cosines = [
        p[i] @ z[j] / np.linalg.norm(p[i]) / np.linalg.norm(z[j])
        for i, j in zip(range(10), [*range(5, 10), *range(5)], strict=True)
    ]
    first, second = -np.mean(cosines[:5]), -np.mean(cosines[5:])
    assert simsiam_loss(predicted, outputs).item() == pytest.approx(first / 2 + second / 2, abs=1e-12)


def test_no_gradient_flows_through_what_is_predicted() -> None:
    predicted, outputs = noise(8, 5, 0).requires_grad_(), noise(8, 5, 1).requires_grad_()
    simsiam_loss(predicted, outputs).backward()
    assert outputs.grad is None
    assert predicted.grad is not None
    assert float(predicted.grad.abs().min(dim=1).values.max()) > 0


def test_the_loss_of_vicreg_by_hand() -> None:
    objective, z = VICReg(6), noise(16, 6, 2)
    objective.projector = nn.Sequential()
    loss, outputs = objective(z)
    halves = np.split(z.numpy().astype(np.float64), 2)
    expected = 25 * np.mean((halves[0] - halves[1]) ** 2)
    for half in halves:
        covariance = np.cov(half.T)
        expected += 25 * np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean() / 2
        expected += (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 6 / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(outputs, z)


def test_the_spread_is_one_on_the_sphere_and_none_if_all_are_alike() -> None:
    assert spread(noise(4000, 64, 3)) == pytest.approx(1, abs=0.02)
    assert spread(noise(1, 64, 3).expand(50, -1)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_views_count_alike(name: str) -> None:
    torch.manual_seed(0)
    objective, features = OBJECTIVES[name](6).double(), noise(24, 6, 4).double()
    one, outputs = objective(features)
    other, _ = objective(torch.cat([features[12:], features[:12]]))
    assert one.item() == pytest.approx(other.item(), rel=1e-9)
    assert outputs.shape[0] == 24


def ramp(n: int, channels: int = 1) -> torch.Tensor:
    """Images that are darker on the left."""
    return torch.linspace(0.2, 0.8, 24).expand(n, channels, 24, 24)


@pytest.mark.parametrize("flips", [False, True])
def test_views_are_mirrored_only_where_that_is_allowed(flips: bool) -> None:
    views = view(ramp(200), flips, generator(0, "views"))
    darker_left = (views[..., :8].mean(dim=(1, 2, 3)) < views[..., -8:].mean(dim=(1, 2, 3))).float().mean()
    assert float(darker_left) == pytest.approx(0.5 if flips else 1.0, abs=0.12 if flips else 0)


def test_views_lie_in_the_range_differ_and_depend_on_the_stream_alone() -> None:
    images = ramp(40, 3)
    first, again, other = (view(images, False, generator(0, "views", step)) for step in (0, 0, 1))
    assert first.shape == images.shape
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.02
    assert len({round(float(v.mean()), 4) for v in first}) > 30, "every image is changed in its own way"


def test_a_view_is_a_part_of_the_image() -> None:
    """Crops lie inside: a bright frame around the image never covers more of a view than of the image."""
    images = torch.zeros(300, 1, 32, 32)
    images[..., 12:20, 12:20] = 1.0
    flat = view(images, False, generator(1, "views"))
    share = ((flat - flat.amin(dim=(1, 2, 3), keepdim=True)) > 0.2).float().mean(dim=(1, 2, 3))
    assert float(share.median()) > 8 * 8 / 32**2, "a crop magnifies"
