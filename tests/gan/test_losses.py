"""Losses against other ways of computing them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.errors import UsageError
from balancer.gan.losses import LOSSES, Loss, loss_named


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 3 * torch.randn(16, dtype=torch.float64), 3 * torch.randn(16, dtype=torch.float64)


def test_non_saturating_is_cross_entropy(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    loss = loss_named("non_saturating")
    one, zero = torch.ones(16).double(), torch.zeros(16).double()
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(loss.discriminator(real, fake), bce(real, one) + bce(fake, zero))
    torch.testing.assert_close(loss.generator(fake), bce(fake, one))


def test_hinge_against_a_loop(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    loss = loss_named("hinge")
    expected = sum(max(0, 1 - r) + max(0, 1 + f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 16
    assert loss.discriminator(real, fake).item() == pytest.approx(expected)
    assert loss.generator(fake).item() == pytest.approx(-sum(fake.tolist()) / 16)


def test_losses_of_an_undecided_discriminator() -> None:
    zero = torch.zeros(4)
    assert loss_named("non_saturating").discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert loss_named("hinge").discriminator(zero, zero).item() == 2


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_contract(loss: Loss) -> None:
    """Scalars; D's descent raises real logits and lowers fake ones; G's descent raises fake ones; no overflow."""
    for value in (-50.0, -0.5, 0.5, 50.0):
        real = torch.full((5,), value, requires_grad=True)
        fake = torch.full((5,), value, requires_grad=True)
        loss_D = loss.discriminator(real, fake)
        assert loss_D.shape == ()
        assert loss_D >= 0
        loss_D.backward()
        assert torch.isfinite(real.grad).all() and (real.grad <= 0).all()  # noqa: PT018
        assert torch.isfinite(fake.grad).all() and (fake.grad >= 0).all()  # noqa: PT018
        again = torch.full((5,), value, requires_grad=True)
        loss_G = loss.generator(again)
        assert loss_G.shape == ()
        loss_G.backward()
        assert torch.isfinite(again.grad).all() and (again.grad <= 0).all()  # noqa: PT018
    # where D is not yet sure, both parts push
    real, fake = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    loss.discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_means_over_the_batch(loss: Loss, logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    torch.testing.assert_close(
        loss.discriminator(real.repeat(3), fake.repeat(3)), loss.discriminator(real, fake), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(loss.generator(fake.repeat(3)), loss.generator(fake), rtol=1e-9, atol=0)


def test_unknown_loss() -> None:
    with pytest.raises(UsageError, match="did you mean 'hinge'"):
        loss_named("hing")
