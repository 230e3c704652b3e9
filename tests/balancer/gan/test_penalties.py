"""Penalties against gradients known in closed form, and against finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from balancer.gan.penalties import lecam, one_centred_penalty, zero_centred_penalty

SHAPE = (5, 1, 3, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """D(x) = <w, x> + 3: its gradient is w everywhere."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(scale * draw(12, seed=1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.w + 3


class Quadratic(nn.Module):
    """D(x) = x'Ax / 2 with a symmetric A: its gradient is Ax."""

    def __init__(self) -> None:
        super().__init__()
        a = draw(12, 12, seed=2)
        self.a = nn.Parameter((a + a.T) / 2)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return (x @ self.a * x).sum(1) / 2


def r1(D: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    return zero_centred_penalty(D(images), images)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_a_linear_discriminator(scale: float) -> None:
    D, real, fake = Linear(scale), draw(*SHAPE), draw(*SHAPE, seed=3)
    squared = D.w.detach().square().sum()
    torch.testing.assert_close(r1(D, real).detach(), squared)
    penalty = one_centred_penalty(D, real, fake, torch.rand(5, 1, 1, 1))
    torch.testing.assert_close(penalty.detach(), (squared.sqrt() - 1) ** 2)


def test_r1_differentiates_by_the_weights() -> None:
    """d ||w||^2 / dw = 2w; of the mean of ||Ax||^2 by A, 2 A <xx'>, symmetrised since A stands on both sides."""
    D = Linear()
    r1(D, draw(*SHAPE)).backward()
    torch.testing.assert_close(D.w.grad, 2 * D.w.detach())
    D, x = Quadratic(), draw(*SHAPE).flatten(1)
    value = r1(D, x.reshape(SHAPE))
    torch.testing.assert_close(value.detach(), (x @ D.a.detach()).square().sum(1).mean())
    value.backward()
    # as autograd sees it: the gradient is (A + A')x / 2
    half = (D.a.detach() + D.a.detach().T) / 2
    product = half @ (x.T @ x / 5)
    torch.testing.assert_close(D.a.grad, product + product.T)


def test_the_gradient_penalty_looks_between_real_and_fake() -> None:
    D, real, fake = Quadratic(), draw(*SHAPE), draw(*SHAPE, seed=3)
    share = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9]).reshape(5, 1, 1, 1)
    expected = []
    for i, s in enumerate(share.flatten().tolist()):
        x = (s * real[i] + (1 - s) * fake[i]).flatten()
        expected.append((torch.linalg.vector_norm(D.a.detach() @ x).item() - 1) ** 2)
    assert one_centred_penalty(D, real, fake, share).item() == pytest.approx(sum(expected) / 5, rel=1e-5)


def test_the_gradient_penalty_reaches_the_weights_and_not_the_images() -> None:
    D, real = Linear(), draw(*SHAPE).requires_grad_(True)
    one_centred_penalty(D, real, draw(*SHAPE, seed=3), torch.rand(5, 1, 1, 1)).backward()
    norm = torch.linalg.vector_norm(D.w.detach())
    torch.testing.assert_close(D.w.grad, 2 * (norm - 1) * D.w.detach() / norm)
    assert real.grad is None


def test_a_flat_discriminator_has_finite_gradients() -> None:
    """The square root has no slope at 0: a dead discriminator must not turn into NaN."""
    D = Linear(0.0)
    penalty = one_centred_penalty(D, draw(*SHAPE), draw(*SHAPE, seed=3), torch.rand(5, 1, 1, 1))
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    penalty.backward()
    assert torch.isfinite(D.w.grad).all()


def test_against_finite_differences() -> None:
    """A convolutional net, the gradient of each logit by each pixel from central differences."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(36, 1), nn.Flatten(0))
    net, images, step = net.double(), draw(*SHAPE).double(), 1e-5
    with torch.no_grad():
        slopes = torch.zeros(5, 12, dtype=torch.float64)
        for pixel in range(12):
            delta = torch.zeros(12, dtype=torch.float64)
            delta[pixel] = step
            delta = delta.reshape(1, 1, 3, 4)
            slopes[:, pixel] = (net(images + delta) - net(images - delta)) / (2 * step)
    assert r1(net, images).item() == pytest.approx(slopes.square().sum(1).mean().item(), rel=1e-5)


NUMBERS = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12)


@given(NUMBERS, NUMBERS, st.floats(-5, 5, width=32), st.floats(-5, 5, width=32))
def test_lecam_against_a_loop(real: list[float], fake: list[float], mean_real: float, mean_fake: float) -> None:
    expected = sum(max(0, r - mean_fake) ** 2 for r in real) / len(real)
    expected += sum(max(0, mean_real - f) ** 2 for f in fake) / len(fake)
    anchors = torch.tensor(mean_real), torch.tensor(mean_fake)
    value = lecam(torch.tensor(real), torch.tensor(fake), *anchors).item()
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_lecam_draws_each_kind_to_the_average_of_the_other() -> None:
    real, fake = torch.tensor([3.0, -4.0], requires_grad=True), torch.tensor([-3.0, 4.0], requires_grad=True)
    lecam(real, fake, torch.tensor(2.0), torch.tensor(-2.0)).backward()
    assert real.grad.tolist() == [5.0, 0.0], "only the real logit above the average fake one"
    assert fake.grad.tolist() == [-5.0, 0.0]
    assert not math.isnan(lecam(real, fake, torch.tensor(0.0), torch.tensor(0.0)).item())
