"""Losses against other ways of computing them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.core.errors import UsageError
from balancer.gan.losses import LOSSES, Loss, loss_named

EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


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
    torch.testing.assert_close(loss.generator(real, fake), bce(fake, one))


def test_hinge_against_a_loop(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    loss = loss_named("hinge")
    expected = sum(max(0, 1 - r) + max(0, 1 + f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 16
    assert loss.discriminator(real, fake).item() == pytest.approx(expected)
    assert loss.generator(real, fake).item() == pytest.approx(-sum(fake.tolist()) / 16)


def test_wasserstein_is_the_difference_of_means(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    loss = loss_named("wasserstein")
    assert loss.discriminator(real, fake).item() == pytest.approx((sum(fake.tolist()) - sum(real.tolist())) / 16)
    assert loss.generator(real, fake).item() == pytest.approx(-sum(fake.tolist()) / 16)


def test_relativistic_against_a_loop(logits: tuple[Tensor, Tensor]) -> None:
    """Huang et al. 2024, eq. 1: f(D(G(z)) - D(x)) with f(t) = -log(1 + exp(-t)), which D minimises, by pairs."""
    real, fake = logits
    loss = loss_named("relativistic")
    for_D = sum(math.log(1 + math.exp(-(r - f))) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 16
    for_G = sum(math.log(1 + math.exp(-(f - r))) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 16
    assert loss.discriminator(real, fake).item() == pytest.approx(for_D)
    assert loss.generator(real, fake).item() == pytest.approx(for_G)
    assert loss.discriminator(real, fake.flip(0)).item() != pytest.approx(for_D), "every real image has one partner"


@pytest.mark.parametrize("name", ["relativistic", "wasserstein"])
def test_only_differences_count(name: str, logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    loss = loss_named(name)
    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))


def test_losses_of_an_undecided_discriminator() -> None:
    zero = torch.zeros(4)
    values = {name: loss.discriminator(zero, zero).item() for name, loss in LOSSES.items()}
    assert values == pytest.approx(
        {"non_saturating": 2 * math.log(2), "hinge": 2, "wasserstein": 0, "relativistic": math.log(2)}
    )


@EVERY
def test_contract(loss: Loss) -> None:
    """Scalars; D's descent raises real logits and lowers fake ones; G's descent raises fake ones; no overflow."""
    for real_value in (-50.0, -0.5, 0.5, 50.0):
        for fake_value in (-50.0, -0.5, 0.5, 50.0):
            real = torch.full((5,), real_value, requires_grad=True)
            fake = torch.full((5,), fake_value, requires_grad=True)
            loss_D = loss.discriminator(real, fake)
            assert loss_D.shape == ()
            assert torch.isfinite(loss_D)
            loss_D.backward()
            assert real.grad.isfinite().all()
            assert (real.grad <= 0).all()
            assert fake.grad.isfinite().all()
            assert (fake.grad >= 0).all()
            again = torch.full((5,), fake_value, requires_grad=True)
            loss_G = loss.generator(real.detach(), again)
            assert loss_G.shape == ()
            loss_G.backward()
            assert again.grad.isfinite().all()
            assert (again.grad <= 0).all()
            if loss is not LOSSES["wasserstein"]:
                assert loss_D >= 0
    # where D is not yet sure, all parts push
    real, fake, again = (torch.zeros(5, requires_grad=True) for _ in range(3))
    loss.discriminator(real, fake).backward()
    loss.generator(real.detach(), again).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    assert (again.grad < 0).all()


@EVERY
def test_means_over_the_batch(loss: Loss, logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    for part in (loss.discriminator, loss.generator):
        torch.testing.assert_close(part(real.repeat(3), fake.repeat(3)), part(real, fake), rtol=1e-9, atol=0)


@EVERY
def test_the_flag_says_whether_the_generator_looks_at_real_logits(loss: Loss, logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    changed = loss.generator(real + 1, fake) - loss.generator(real, fake)
    assert (changed.abs().item() > 1e-3) == loss.relativistic
    if not loss.relativistic:
        torch.testing.assert_close(loss.generator(torch.full_like(real, math.nan), fake), loss.generator(real, fake))


def test_unknown_loss() -> None:
    with pytest.raises(UsageError, match="did you mean 'hinge'"):
        loss_named("hing")
