"""Ingredients for few images, each against its formula: excitation, reconstruction, consistency, top-k, cosine."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gan_helpers import CPU, config
from torch import Tensor, nn

from balancer.augmentation.differentiable import DIFFAUGMENT
from balancer.core.errors import UsageError
from balancer.core.settings import GanTrainConfig
from balancer.gan import trainer
from balancer.gan.decoder import quarter
from balancer.gan.layers import SkipExcitation
from balancer.gan.networks import ARCHITECTURES, ExcitedGenerator, architecture
from balancer.gan.step import GanState, best_share, build_state, learning_rate_share, train_step


def settings_of(**changes: Any) -> GanTrainConfig:
    """32 px, the smallest side that D can reconstruct."""
    return config(**{"data": {"path": "phantom", "image_size": 32}, **changes})


def noise(n: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)) - 1


def watched(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What goes into a network, and what comes out, call by call."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    net.register_forward_pre_hook(lambda _m, given: inputs.append(given[0].detach().clone()))
    net.register_forward_hook(lambda _m, _i, out: outputs.append(out.detach().clone()))
    return inputs, outputs


def test_a_gate_against_numpy() -> None:
    torch.manual_seed(0)
    gate = SkipExcitation(3, 5, base=4, pool=2)
    coarse, fine = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 32, 32)
    pooled = coarse.numpy().reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))
    first, second = (gate.layers[i].weight.detach().numpy() for i in (1, 3))
    hidden = np.einsum("bcij,ocij->bo", pooled, first)
    hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
    scale = 1 / (1 + np.exp(-hidden @ second[:, :, 0, 0].T))
    np.testing.assert_allclose(gate(coarse, fine).detach().numpy(), fine.numpy() * scale[:, :, None, None], rtol=1e-4)


def test_the_excited_generator_is_dcgan_with_gates() -> None:
    """At 64 px the maps of 16 and 32 px are scaled by those of 4 and 8. With open gates it is DCGAN's generator."""
    torch.manual_seed(0)
    G, plain = ExcitedGenerator(64, 5, 2).eval(), architecture("dcgan").generator(64, 5, 2, 1).eval()
    plain.load_state_dict({key: value for key, value in G.state_dict().items() if key.startswith("layers")})
    z = torch.randn(3, 5)
    maps, x = [], z[:, :, None, None]
    for layer in plain.layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            if (n := len(maps)) >= 2:
                pooled = F.avg_pool2d(maps[n - 2], 2 ** (n - 2))
                hidden = F.leaky_relu(F.conv2d(pooled, G.gates[n - 2].layers[1].weight), 0.1)
                x = x * F.conv2d(hidden, G.gates[n - 2].layers[3].weight).sigmoid()
            maps.append(x)
    assert [m.shape[2] for m in maps] == [4, 8, 16, 32]
    torch.testing.assert_close(G(z), x)
    for gate in G.gates:
        gate.layers = nn.Sequential(nn.Flatten(0), nn.Flatten(0))  # of nothing but ones
        gate.forward = lambda _coarse, fine: fine
    torch.testing.assert_close(G(z), plain(z))
    assert len(ExcitedGenerator(16, 5, 2).gates) == 0


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_features_on_the_way_to_the_logits(name: str) -> None:
    torch.manual_seed(0)
    D, images = architecture(name).discriminator(32, 2, "none", True, 1), noise()
    logits, maps = D.with_maps(images)
    assert torch.equal(logits, D(images))
    assert {16, 8} <= maps.keys()
    assert all(m.shape[2:] == (side, side) for side, m in maps.items())


def test_quarters() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert [quarter(image, k)[0, 0, 0, 0].item() for k in range(4)] == [0, 2, 8, 10]
    assert quarter(image, 3).flatten().tolist() == [10, 11, 14, 15]


def test_reconstruction_by_hand() -> None:
    """The whole image at half its side, and a quarter at the full resolution, by mean absolute error."""
    state = build_state(settings_of(reconstruction_weight=1.0), CPU)
    images = noise()
    _, maps = state.D.with_maps(images)
    whole, part = state.decoder.whole(maps[4]), state.decoder.part(maps[8][:, :, 4:, :4])
    assert whole.shape == part.shape == (4, 1, 16, 16)
    small = images.reshape(4, 1, 16, 2, 16, 2).mean(dim=(3, 5))
    expected = (whole - small).abs().mean() + (part - images[:, :, 16:, :16]).abs().mean()
    torch.testing.assert_close(state.decoder(images, maps, 2), expected)


def test_a_discriminator_that_reconstructs_learns_to() -> None:
    """Real images alone: synthetic ones go through D without their features being kept."""
    settings = settings_of(reconstruction_weight=5.0, discriminator_width=8, lr_discriminator=5e-3)
    state, real = build_state(settings, CPU), noise(side=8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    seen: list[Tensor] = []
    with_maps = state.D.with_maps
    state.D.with_maps = lambda images: (seen.append(images.detach()), with_maps(images))[1]
    errors = [train_step(settings, state, real)["reconstruction"].item() for _ in range(25)]
    assert errors[-1] < 0.8 * errors[0]
    assert all(torch.equal(images, real) for images in seen)
    plain = build_state(settings_of(), CPU)
    assert torch.equal(
        plain.D.layers[0].weight, build_state(settings_of(reconstruction_weight=1), CPU).D.layers[0].weight
    )


@pytest.mark.parametrize(
    ("changes", "sides"),
    [
        ({"data": {"path": "phantom", "image_size": 16}}, "8, 4"),
        (
            {"architecture": "s2", "discriminator_norm": "none", "data": {"path": "phantom", "image_size": 148}},
            "74, 37",
        ),
    ],
)
def test_images_that_cannot_be_reconstructed(changes: dict[str, Any], sides: str) -> None:
    with pytest.raises(UsageError, match=rf"reconstruction_weight is 1\b.*{sides}"):
        trainer.check(settings_of(reconstruction_weight=1, **changes))


def test_consistency_by_hand() -> None:
    settings = settings_of(consistency_weight=3.0, discriminator_norm="none")
    state = build_state(settings, CPU)
    inputs, outputs = watched(state.D)
    scalar = train_step(settings, state, noise())["inconsistency"]
    real, fake, moved_real, moved_fake = outputs[:4]
    expected = (real - moved_real).pow(2).mean() + (fake - moved_fake).pow(2).mean()
    torch.testing.assert_close(scalar, expected)
    assert torch.equal(inputs[0], noise())
    for i in (0, 1):  # a shift by up to an eighth leaves the middle of the image somewhere
        assert not torch.equal(inputs[i], inputs[i + 2])
        assert torch.isin(inputs[i][:, :, 4:-4, 4:-4], inputs[i + 2]).all()


def test_consistency_is_zero_where_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then D learns as without it; else it does not."""
    trained = {}
    for name, weight, still in (("off", 0, True), ("still", 10, True), ("moved", 10, False)):
        settings = settings_of(consistency_weight=weight, discriminator_norm="none")
        state = build_state(settings, CPU)
        with monkeypatch.context() as patch:
            if still:
                patch.setitem(DIFFAUGMENT, "translation", lambda images, _generator: images)
            scalars = train_step(settings, state, noise())
        assert (scalars.get("inconsistency", 0) == 0) == still
        trained[name] = state.D.layers[0].weight.detach()
    torch.testing.assert_close(trained["off"], trained["still"], rtol=0, atol=1e-7)
    assert (trained["off"] - trained["moved"]).abs().max() > 1e-5


def test_cosine_is_torchs() -> None:
    settings = settings_of(lr_schedule="cosine", steps=8, lr_generator=3e-4, lr_discriminator=7e-4)
    state = build_state(settings, CPU)
    used: list[tuple[float, float]] = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for step in range(8):
        train_step(settings, state, noise())
        used.append((state.optimizer_G.param_groups[0]["lr"], state.optimizer_D.param_groups[0]["lr"]))
        share = schedule.get_last_lr()[0]
        assert learning_rate_share(settings, step) == pytest.approx(share)
        assert used[-1] == pytest.approx((3e-4 * share, 7e-4 * share))
        optimizer.step()
        schedule.step()
    assert learning_rate_share(settings, 8) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_top_k_by_hand(loss: str) -> None:
    """After half of the steps, G's loss is that of the half of its images that D takes most for real."""
    settings = settings_of(top_k=0.5, steps=8, loss=loss, batch_size=6)
    assert [best_share(settings, step) for step in (0, 2, 4, 7)] == [1, 0.75, 0.5, 0.5]
    state = build_state(settings, CPU)
    state.step = 4
    _, outputs = watched(state.D)
    loss_G = train_step(settings, state, noise(6))["loss_G"].item()
    fake, real = outputs[2], outputs[-1]
    order = fake.argsort(descending=True)[:3]
    margin = fake[order] if loss == "non_saturating" else fake[order] - real[order]
    assert loss_G == pytest.approx(F.softplus(-margin).mean().item(), rel=1e-5)


def test_frozen_layers_keep_their_weights() -> None:
    settings = settings_of(init_from="somewhere", freeze_discriminator=2, reconstruction_weight=1.0)
    state = build_state(settings, CPU)
    before = copy.deepcopy(state.D)
    for step in range(3):
        train_step(settings, state, noise(seed=step))
    frozen = {id(p) for layer in before.first_layers(2) for p in layer.parameters()}
    moved = {
        key: not torch.equal(mine, theirs)
        for (key, theirs), mine in zip(before.named_parameters(), state.D.parameters(), strict=True)
        if mine.numel() > 1
    }
    expected = {key: id(p) not in frozen for key, p in before.named_parameters() if p.numel() > 1}
    assert moved == expected
    assert list(expected.values()).count(False) == 4, "two convolutions, and the BatchNorm of the second one"


@pytest.mark.parametrize(("architecture_name", "layers"), [("dcgan", 4), ("residual", 4), ("s2", 5)])
def test_what_can_be_frozen(architecture_name: str, layers: int) -> None:
    def check(n: int) -> None:
        trainer.check(settings_of(architecture=architecture_name, init_from="there", freeze_discriminator=n))

    check(layers - 1)
    with pytest.raises(UsageError, match=rf"freeze_discriminator is {layers}\b.*at most {layers - 1}"):
        check(layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_discriminator": 1}, "freeze_discriminator is 1 without init_from"),
        ({"consistency_weight": 2, "consistency_augment": []}, "consistency_weight is 2 .*consistency_augment"),
        ({"consistency_augment": ["shift"]}, "consistency_augment is 'shift'"),
    ],
)
def test_what_excludes_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(settings_of(**changes))


def test_new_settings_change_no_draw_when_they_are_off() -> None:
    """The same weights after a step, with and without a decoder of no weight in the loss."""
    states: list[GanState] = []
    for changes in ({}, {"top_k": 1.0, "lr_schedule": "constant", "consistency_augment": ["cutout"]}):
        settings = settings_of(**changes)
        states.append(build_state(settings, CPU))
        train_step(settings, states[-1], noise())
    for mine, theirs in zip(*(s.G.parameters() for s in states), strict=True):
        assert torch.equal(mine, theirs)
