"""One training step against loops written out by hand, and what augmentation may and may not do."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gan_helpers import CPU, RECIPES, assert_same, config
from torch import Tensor, nn

from balancer.augmentation.differentiable import DIFFAUGMENT
from balancer.core.presets import PRESETS
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.gan import step as step_module
from balancer.gan.monitor import generate
from balancer.gan.step import GanState, build_state, sample_z, train_step

EVERY: dict[str, dict[str, Any]] = {**{p: {"preset": p} for p in PRESETS}, **RECIPES}


def small(**changes: Any) -> GanTrainConfig:
    """16 px whatever the preset says."""
    return config(**{"data": {"path": "phantom", "image_size": 16}, **changes})


def reals(settings: GanTrainConfig, seed: int) -> Tensor:
    n = settings.n_dis * settings.batch_size
    return 2 * torch.rand(n, 1, 16, 16, generator=generator(seed, "reals")) - 1


# Every penalty as its paper writes it, in terms of D alone.


def squared_slope(D: nn.Module, images: Tensor) -> Tensor:
    x = images.clone().requires_grad_(True)
    return torch.autograd.grad(D(x).sum(), x, create_graph=True)[0].flatten(1).pow(2).sum(1)


def cross_entropy(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    bce = F.binary_cross_entropy_with_logits
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    return bce(real, one) + bce(fake, zero), bce(fake, one)


def hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), -fake.mean()


def wasserstein(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return fake.mean() - real.mean(), -fake.mean()


def relativistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    bce = F.binary_cross_entropy_with_logits
    return bce(real - fake, torch.ones_like(real)), bce(fake - real, torch.ones_like(real))


PLAIN: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "dcgan": ({}, cross_entropy),
    "hinge": ({"loss": "hinge", "discriminator_norm": "none"}, hinge),
    "R1": ({"r1_weight": 3.0, "discriminator_norm": "none"}, cross_entropy),
    "lazy R1": ({"r1_weight": 3.0, "penalty_every": 4, "discriminator_norm": "none"}, cross_entropy),
    "WGAN-GP": ({"preset": "wgan_gp", "n_dis": 3}, wasserstein),
    "relativistic, R1, R2": ({"preset": "relativistic", "ema_decay": 0.9}, relativistic),
    "lazy R1 + R2, two steps": (
        {"r1_weight": 1.0, "r2_weight": 2.0, "penalty_every": 3, "n_dis": 2, "discriminator_norm": "none"},
        cross_entropy,
    ),
    "LeCam": ({"loss": "hinge", "lecam_weight": 0.3, "discriminator_norm": "none"}, hinge),
}


@pytest.mark.parametrize("recipe", list(PLAIN))
def test_twenty_steps_against_a_plain_loop(recipe: str) -> None:
    """Separate passes, penalties from their papers, plain Adam, full gradients: the same losses to 1e-5."""
    changes, losses = PLAIN[recipe]
    settings = small(generator_width=4, discriminator_width=4, **changes)
    state = build_state(settings, CPU)
    G, D, average = (copy.deepcopy(net) for net in (state.G, state.D, state.G))
    betas = (settings.beta1, settings.beta2)
    for_G = torch.optim.Adam(G.parameters(), lr=settings.lr_generator, betas=betas)
    for_D = torch.optim.Adam(D.parameters(), lr=settings.lr_discriminator, betas=betas)
    count, anchor_real, anchor_fake = 0, 0.0, 0.0
    for step in range(20):
        everything, source = reals(settings, step), generator(settings.seed, "step", step)
        for real in everything.split(settings.batch_size):
            z = torch.randn(settings.batch_size, settings.z_dim, generator=source)
            images = G(z)
            fake = images.detach()
            loss_D, _ = losses(real_logits := D(real), fake_logits := D(fake))
            total = loss_D
            if count % settings.penalty_every == 0:
                k = settings.penalty_every
                if settings.r1_weight:
                    total = total + k * settings.r1_weight / 2 * squared_slope(D, real).mean()
                if settings.r2_weight:
                    total = total + k * settings.r2_weight / 2 * squared_slope(D, fake).mean()
                if settings.gradient_penalty_weight:
                    t = torch.rand(len(real), 1, 1, 1, generator=source)
                    norms = squared_slope(D, t * real + (1 - t) * fake).sqrt()
                    total = total + k * settings.gradient_penalty_weight * (norms - 1).pow(2).mean()
            if settings.lecam_weight:
                one_side = (real_logits - anchor_fake).clamp(min=0).pow(2).mean()
                other_side = (anchor_real - fake_logits).clamp(min=0).pow(2).mean()
                total = total + settings.lecam_weight * (one_side + other_side)
            for_D.zero_grad()
            total.backward()
            for_D.step()
            count += 1
            anchor_real = 0.99 * anchor_real + 0.01 * real_logits.mean().item()
            anchor_fake = 0.99 * anchor_fake + 0.01 * fake_logits.mean().item()
        loss_G = losses(D(real), D(images))[1]
        for_G.zero_grad()
        loss_G.backward()
        for_G.step()
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        for mine, theirs in zip(average.state_dict().values(), G.state_dict().values(), strict=True):
            mine.copy_(decay * mine + (1 - decay) * theirs if mine.is_floating_point() else theirs)

        scalars = train_step(settings, state, everything)
        assert state.step == step + 1
        # D's loss is small beside its terms in WGAN: the absolute part of the tolerance
        assert float(scalars["loss_D"]) == pytest.approx(loss_D.item(), rel=1e-5, abs=1e-5), step
        assert float(scalars["loss_G"]) == pytest.approx(loss_G.item(), rel=1e-5, abs=1e-5), step
        assert float(scalars["D_real"]) == pytest.approx(real_logits.sigmoid().mean().item(), abs=1e-5)
        assert float(scalars["D_fake"]) == pytest.approx(fake_logits.sigmoid().mean().item(), abs=1e-5)
    z = torch.randn(
        16, settings.z_dim, generator=generator(1)
    )  # not weights: a bias before BatchNorm moves by rounding alone
    for mine, theirs, given in ((G, state.G, z), (average, state.ema.module, z), (D, state.D, reals(settings, 99))):
        torch.testing.assert_close(mine.train()(given), theirs.train()(given), rtol=1e-4, atol=1e-4)
    assert state.running_stats["lecam_real"].item() == pytest.approx(anchor_real, abs=1e-5)
    assert state.running_stats["lecam_fake"].item() == pytest.approx(anchor_fake, abs=1e-5)


class Watched:
    """Counts an optimiser's steps and notes the gradients that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, optimizer: torch.optim.Optimizer, net: nn.Module) -> None:
        self.gradients: list[list[Tensor]] = []
        step = optimizer.step

        def stepping() -> None:
            self.gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
            step()

        monkeypatch.setattr(optimizer, "step", stepping)


@pytest.mark.parametrize("n_dis", [1, 2, 5])
def test_n_dis(n_dis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many steps of D, each on real images of its own, and one of G."""
    settings = small(n_dis=n_dis)
    state, real = build_state(settings, CPU), reals(settings, 0)
    for_D = Watched(monkeypatch, state.optimizer_D, state.D)
    for_G = Watched(monkeypatch, state.optimizer_G, state.G)
    seen: list[Tensor] = []
    state.D.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    train_step(settings, state, real)
    assert (len(for_D.gradients), len(for_G.gradients), state.step) == (n_dis, 1, 1)
    assert len(seen) == 2 * n_dis + 1
    assert torch.equal(torch.cat(seen[: 2 * n_dis : 2]), real)
    fakes = seen[1 : 2 * n_dis : 2]
    assert len({f.numpy().tobytes() for f in fakes}) == n_dis, "every step of D has fakes of its own"
    assert torch.equal(seen[-1], fakes[-1]), "the last fakes serve G too"


def test_lazy_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third step of D, three times as strong, counted over training steps: resuming does not shift the rhythm."""
    settings = small(r1_weight=2.0, penalty_every=3, n_dis=2, discriminator_norm="none")
    state = build_state(settings, CPU)
    penalised: list[bool] = []
    for step in range(6):
        before, watched = [], None
        with monkeypatch.context() as patch:
            watched = Watched(patch, state.optimizer_D, state.D)
            state.D.register_forward_pre_hook(
                lambda _m, _i, kept=before: kept.append(copy.deepcopy(state.D.state_dict()))
            )
            everything = reals(settings, step)
            source = generator(settings.seed, "step", step)
            G = copy.deepcopy(state.G)
            train_step(settings, state, everything)
        state.D._forward_pre_hooks.clear()
        for i, real in enumerate(everything.split(4)):
            fake = G(sample_z(settings, 4, source)).detach()
            D = copy.deepcopy(state.D).requires_grad_(True)
            D.load_state_dict(before[2 * i])
            D.zero_grad()
            loss = cross_entropy(D(real), D(fake))[0]
            plain = torch.autograd.grad(loss, D.parameters(), retain_graph=True)
            slope = torch.autograd.grad(squared_slope(D, real).mean(), D.parameters(), allow_unused=True)
            slope = [torch.zeros_like(p) if s is None else s for s, p in zip(slope, D.parameters(), strict=True)]
            given = watched.gradients[i]
            lazy = [p + 3 * 2.0 / 2 * s for p, s in zip(plain, slope, strict=True)]
            distances = [
                sum((a - b).abs().sum().item() for a, b in zip(given, expected, strict=True))
                for expected in (plain, lazy)
            ]
            assert min(distances) < 1e-4 < max(distances)
            penalised.append(distances[1] < distances[0])
    assert penalised == [i % 3 == 0 for i in range(12)]


@pytest.mark.parametrize("recipe", list(EVERY))
def test_the_generators_step_leaves_the_discriminator_alone(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(**EVERY[recipe])
    state = build_state(settings, CPU)
    seen: dict[str, list[Tensor]] = {}
    step_D, step_G = state.optimizer_D.step, state.optimizer_G.step

    def after_D() -> None:
        seen["gradients"] = [p.grad.clone() for p in state.D.parameters() if p.grad is not None]
        step_D()
        seen["weights"] = [p.detach().clone() for p in state.D.parameters()]

    def after_G() -> None:
        assert all(p.grad is not None and p.grad.any() for p in state.G.parameters())
        step_G()

    monkeypatch.setattr(state.optimizer_D, "step", after_D)
    monkeypatch.setattr(state.optimizer_G, "step", after_G)
    train_step(settings, state, reals(settings, 0))
    parameters = list(state.D.parameters())
    assert len(seen["gradients"]) == len(parameters)
    for p, gradient, weight in zip(parameters, seen["gradients"], seen["weights"], strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, gradient)
        assert torch.equal(p, weight)


@pytest.mark.parametrize("recipe", list(EVERY))
def test_the_discriminators_step_leaves_the_generator_alone(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small(**EVERY[recipe])
    state = build_state(settings, CPU)
    before = [p.detach().clone() for p in state.G.parameters()]
    step = state.optimizer_D.step

    def look() -> None:
        assert all(p.grad is None for p in state.G.parameters())
        assert all(torch.equal(p, q) for p, q in zip(state.G.parameters(), before, strict=True))
        step()

    monkeypatch.setattr(state.optimizer_D, "step", look)
    train_step(settings, state, reals(settings, 0))
    assert not all(torch.equal(p, q) for p, q in zip(state.G.parameters(), before, strict=True))


@pytest.mark.parametrize("recipe", list(EVERY))
def test_a_step_is_a_pure_function(recipe: str) -> None:
    """Of state, seed and step: not of torch's global stream; and every scalar is finite."""
    settings = small(**EVERY[recipe])
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = build_state(settings, CPU)
        for step in range(3):
            torch.manual_seed(100 * seed + step)
            scalars = train_step(settings, state, reals(settings, step))
            assert all(value.shape == () and torch.isfinite(value) for value in scalars.values())
            assert not any(value.requires_grad for value in scalars.values())
        states.append({k: v.state_dict() for k, v in state.modules().items()} | {"running_stats": state.running_stats})
        expected = {"loss_D", "loss_G", "D_real", "D_fake"} | (
            {"augment_p"} if settings.ada_target is not None else set()
        )
        assert scalars.keys() == expected
    assert_same(*states)


def test_the_average_ramps_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts as a copy, and follows G by 1 - min(decay, (1 + step) / (10 + step)), running statistics too."""
    settings = small(ema_decay=0.15)
    state = build_state(settings, CPU)
    mine = {k: v.clone() for k, v in state.ema.module.state_dict().items()}
    assert_same(mine, state.G.state_dict())
    for step in range(3):
        train_step(settings, state, reals(settings, step))
        decay = (0.1, 0.15, 0.15)[step]
        for key, value in state.G.state_dict().items():
            mine[key] = decay * mine[key] + (1 - decay) * value if value.is_floating_point() else value
            torch.testing.assert_close(state.ema.module.state_dict()[key], mine[key], rtol=1e-4, atol=1e-7, msg=key)


def test_rmsprop_is_keras_s() -> None:
    settings = small(optimizer="rmsprop", lr_generator=3e-4, lr_discriminator=5e-4)
    state = build_state(settings, CPU)
    for optimizer, lr in ((state.optimizer_G, 3e-4), (state.optimizer_D, 5e-4)):
        assert isinstance(optimizer, torch.optim.RMSprop)
        group = optimizer.param_groups[0]
        assert (group["lr"], group["alpha"], group["eps"], group["momentum"]) == (lr, 0.9, 1e-7, 0)


# Adaptive augmentation


class Opinion(nn.Module):
    """A discriminator with fixed opinions: real images are marked by 1 in a corner."""

    def __init__(self, real: float, fake: float) -> None:
        super().__init__()
        self.real, self.fake, self.weight = real, fake, nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        marked = images[:, 0, 0, 0] == 1
        return torch.where(marked, self.real, self.fake) + self.weight * images.mean(dim=(1, 2, 3))


def opinionated(settings: GanTrainConfig, real: float, fake: float) -> tuple[GanState, Tensor]:
    state = build_state(settings, CPU)
    state.D = Opinion(real, fake)
    state.optimizer_D = torch.optim.SGD(state.D.parameters(), lr=0.0)
    images = reals(settings, 0)
    images[:, 0, 0, 0] = 1
    return state, images


def test_the_probability_follows_r_t(monkeypatch: pytest.MonkeyPatch) -> None:
    """Karras et al. 2020: r_t is the mean sign of D at real images; p moves by batch / ada_images per step of D."""
    monkeypatch.setattr(step_module, "diff_augment", lambda images, *_: images)
    settings = small(diffaugment=["brightness"], ada_target=0.3, ada_images=40, n_dis=2)
    state, images = opinionated(settings, 2.0, 5.0)
    r_t, p, seen = 0.0, 0.0, []
    for opinion in [2.0] * 12 + [-1.0] * 14:
        state.D.real = opinion
        scalars = train_step(settings, state, images)
        for _ in range(2):
            r_t = 0.95 * r_t + 0.05 * np.sign(opinion)
            p = min(0.8, max(0, p + np.sign(r_t - 0.3) * 4 / 40))
        assert state.running_stats["r_t"].item() == pytest.approx(r_t, abs=1e-6)
        assert state.running_stats["augment_p"].item() == pytest.approx(p, abs=1e-6)
        assert scalars["augment_p"].item() == pytest.approx(p, abs=1e-6)
        seen.append(p)
    assert seen[0] == 0, "below the target there is nothing to take back"
    assert max(seen) == pytest.approx(0.8), "beyond it, augmentations leak"
    assert seen[-1] == 0
    assert any(0 < p < 0.8 for p in seen)


def test_without_a_target_the_probability_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every image is augmented."""
    handed: list[Any] = []
    monkeypatch.setattr(
        step_module, "diff_augment", lambda images, _policy, _source, probability: handed.append(probability) or images
    )
    settings = small(diffaugment=["brightness"])
    state, images = opinionated(settings, 2.0, -2.0)
    assert "augment_p" not in train_step(settings, state, images)
    assert handed == [None] * 3
    assert state.running_stats["augment_p"] == state.running_stats["r_t"] == 0


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_what_the_discriminator_sees(p: float) -> None:
    settings = small(
        diffaugment=["brightness", "contrast"], ada_target=0.6, discriminator_norm="none", loss="relativistic"
    )
    state, real = build_state(settings, CPU), reals(settings, 0)
    state.running_stats["augment_p"].fill_(p)
    state.running_stats["r_t"].fill_(p - 0.5)  # neither end is left
    G, seen = copy.deepcopy(state.G), []
    state.D.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    train_step(settings, state, real)
    fake = G(sample_z(settings, 4, generator(settings.seed, "step", 0))).detach()
    assert len(seen) == 4
    for images, original in zip(seen, (real, fake, fake, real), strict=True):
        changed = ((images - original).abs().amax(dim=(1, 2, 3)) > 1e-4).tolist()
        assert changed == [p == 1] * 4
    if p == 1:
        assert not torch.equal(seen[1], seen[2]), "G's step has draws of its own"


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_real_and_fake_are_augmented_for_both_players(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhao et al. 2020: the change is applied in all places, else it leaks into the images; gradients pass it."""
    settings = small(preset="sngan_diffaug", loss=loss, n_dis=2)
    seen: list[Tensor] = []

    def noting(images: Tensor, policy: Any, _source: torch.Generator, _probability: Any) -> Tensor:
        assert tuple(policy) == settings.diffaugment
        seen.append(images)
        return images

    monkeypatch.setattr(step_module, "diff_augment", noting)
    state, real = build_state(settings, CPU), reals(settings, 0)
    train_step(settings, state, real)
    assert len(seen) == 5 + (loss == "relativistic")
    assert torch.equal(torch.cat([seen[0], seen[2]]), real)
    assert torch.equal(seen[3], seen[4])
    assert [images.requires_grad for images in seen[:5]] == [False] * 4 + [True]
    if loss == "relativistic":
        assert torch.equal(seen[5], real[4:])


# Augmentation must not leak into the images


def test_no_flip_is_registered() -> None:
    """Mirroring puts the heart on the right. Bright left half: no operation makes the right half the brighter one."""
    known = {"brightness", "saturation", "contrast", "translation", "cutout"}
    assert set(DIFFAUGMENT) == known, "a new operation: does it mirror?"
    image = torch.linspace(1, 0.2, 16).expand(400, 1, 16, 16)
    for name, operation in DIFFAUGMENT.items():
        changed = operation(image, generator(0, name))
        kept = changed[:, 0] != 0  # cutout and translation bring in zeros
        slope = changed.diff(dim=3)[:, 0] * (kept[:, :, 1:] & kept[:, :, :-1])
        assert (slope <= 1e-6).all(), name


def toy_images(n: int, source: torch.Generator) -> Tensor:
    """Grey ground with a bright square in the middle, each a little lighter or darker."""
    images = torch.full((n, 1, 16, 16), -0.4)
    images[:, :, 5:11, 5:11] = 0.6
    return images + 0.05 * torch.randn(n, 1, 1, 1, generator=source)


def where_and_how_bright(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (n, 2) of what is brighter than the ground, in pixels, and mean brightness (n,)."""
    light = (images[:, 0] - images[:, 0].amin(dim=(1, 2), keepdim=True)).clamp(min=0)
    light = torch.where(light > 0.5, light, 0)
    rows = torch.arange(16.0)
    total = light.sum(dim=(1, 2)).clamp(min=1e-6)
    centre = torch.stack([(light.sum(2) * rows).sum(1) / total, (light.sum(1) * rows).sum(1) / total], 1)
    return centre.numpy(), images.mean(dim=(1, 2, 3)).numpy()


@pytest.mark.parametrize("leaks", [False, True])
def test_augmentation_does_not_leak(leaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GAN that sees shifted, brightened and darkened squares draws them in the middle and as bright as they are.

    The control augments real images alone, which teaches G to shift and brighten: the figures must tell the two apart.
    """
    settings = small(
        preset="sngan_diffaug",
        diffaugment=["translation", "brightness"],
        generator_width=8,
        discriminator_width=8,
        z_dim=4,
        batch_size=16,
        lr_generator=1e-3,
        lr_discriminator=1e-3,
        ema_decay=0.9,
    )
    if leaks:
        augment, turn = step_module.diff_augment, itertools.cycle(["real", "fake", "fake for G"])
        monkeypatch.setattr(
            step_module,
            "diff_augment",
            lambda images, *rest: augment(images, *rest) if next(turn) == "real" else images,
        )
    state = build_state(settings, CPU)
    for step in range(250):
        train_step(settings, state, toy_images(16, generator(step, "toy")))
    monkeypatch.undo()
    images = generate(state.ema.module, sample_z(settings, 64, generator(0, "look")))
    (centre, light), (_, real_light) = where_and_how_bright(images), where_and_how_bright(toy_images(64, generator(1)))
    shifted, uneven = centre.std(axis=0).max() > 0.4, light.std() > 0.12
    assert (bool(shifted), bool(uneven)) == (leaks, leaks)
    if not leaks:  # data: centre 7.5 without spread, light -0.257 with an SD of 0.044; shifts reach 2, light 0.5
        assert np.abs(centre.mean(axis=0) - 7.5).max() < 0.3
        assert abs(light.mean() - real_light.mean()) < 0.06
