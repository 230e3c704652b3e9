"""Presets, names and combinations: what is refused before a run begins, and what the settings make."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gan_helpers import CPU, assert_same, config, dataset

from balancer.augmentation.differentiable import DIFFAUGMENT
from balancer.core.config import resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.presets import PRESETS
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.gan import trainer
from balancer.gan.networks import ARCHITECTURES, S2Generator, count_values
from balancer.gan.step import build_state, sample_z


def test_weights_do_not_depend_on_the_global_stream() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build_state(config(), CPU).G.state_dict())
    assert_same(*states)


@pytest.mark.parametrize(("distribution", "low", "sd"), [("uniform", -1.0, 3**-0.5), ("normal", -9.0, 1.0)])
def test_latents(distribution: str, low: float, sd: float) -> None:
    z = sample_z(config(z_distribution=distribution, z_dim=50), 200, generator(0))
    assert z.shape == (200, 50)
    assert low <= z.min() < -0.95
    assert z.std().item() == pytest.approx(sd, rel=0.03)
    assert z.mean().item() == pytest.approx(0, abs=0.03)


def test_s2_preset_is_the_published_system(chest_folder: Path) -> None:
    settings = resolve(GanTrainConfig, {"preset": "s2", "data": {"path": str(chest_folder)}})
    assert isinstance(settings, GanTrainConfig)
    assert settings.data.image_size == 148
    assert (settings.architecture, settings.z_distribution, settings.optimizer) == ("s2", "uniform", "rmsprop")
    assert settings.steps == 40_000
    G = S2Generator(settings.data.image_size, settings.z_dim, settings.generator_width)
    assert count_values(G) == 18_366_465
    beside = resolve(GanTrainConfig, {"preset": "s2", "steps": 5, "data": {"path": "phantom", "image_size": 64}})
    assert isinstance(beside, GanTrainConfig)
    assert (beside.steps, beside.data.image_size, beside.architecture) == (5, 64, "s2")


def test_presets_are_what_they_say() -> None:
    expected = {
        "dcgan": {"loss": "non_saturating", "discriminator_norm": "batch", "diffaugment": (), "ema_decay": 0},
        "sngan_diffaug": {"loss": "hinge", "discriminator_norm": "spectral", "ema_decay": 0.999},
        "wgan_gp": {"loss": "wasserstein", "gradient_penalty_weight": 10, "n_dis": 5, "beta1": 0, "beta2": 0.9},
        "relativistic": {"loss": "relativistic", "architecture": "residual", "discriminator_norm": "none"},
        "s2": {"optimizer": "rmsprop", "discriminator_norm": "none"},
    }
    assert {"dcgan_diffaug", *expected} == PRESETS.keys()
    assert PRESETS["dcgan_diffaug"] == {}
    default = resolve(GanTrainConfig, {"data": {"path": "phantom"}})
    assert isinstance(default, GanTrainConfig)
    assert (default.preset, default.diffaugment, default.discriminator_norm) == (
        "dcgan_diffaug",
        ("translation",),
        "batch",
    )
    for name, values in expected.items():
        settings = config(preset=name)
        trainer.check(settings)
        assert {key: getattr(settings, key) for key in values} == values
    assert {*config(preset="sngan_diffaug").diffaugment, "saturation"} == set(DIFFAUGMENT), "which is of colour alone"
    pairing = config(preset="relativistic")
    assert pairing.r1_weight == pairing.r2_weight > 0
    assert any("parametrizations" in key for key in build_state(config(preset="sngan_diffaug"), CPU).D.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge_"}, "loss is 'hinge_'; did you mean 'hinge'"),
        ({"architecture": "residul"}, "architecture is 'residul'; did you mean 'residual'"),
        ({"diffaugment": ["cutoff"]}, "did you mean 'cutout'"),
        (
            {"diffaugment": ["flip"]},
            "diffaugment is 'flip'; known: brightness, contrast, cutout, saturation, translation",
        ),
        ({"data": {"path": "phantom", "image_size": 50}}, "50"),
        ({"preset": "s2", "data": {"path": "phantom", "image_size": 50}}, "50"),
        ({"r1_weight": 1.0}, "r1_weight is 1 with discriminator_norm batch.*none or spectral"),
        ({"r2_weight": 0.5}, "r2_weight is 0.5 with discriminator_norm batch"),
        ({"gradient_penalty_weight": 10}, "gradient_penalty_weight is 10 with discriminator_norm batch"),
        ({"preset": "relativistic", "discriminator_norm": "batch"}, "r1_weight is 1 with discriminator_norm batch"),
        ({"loss": "wasserstein"}, "loss wasserstein needs a Lipschitz .*norm=spectral.*gradient_penalty_weight=10"),
        ({"loss": "wasserstein", "discriminator_norm": "none"}, "needs a Lipschitz discriminator"),
        ({"preset": "wgan_gp", "gradient_penalty_weight": 0}, "needs a Lipschitz discriminator"),
        ({"ada_target": 0.6}, "ada_target adapts the probability of diffaugment, which is empty"),
    ],
)
def test_impossible_settings_are_found_before_anything_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(config(**changes))


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_what_goes_together_is_let_through(architecture: str, norm: str) -> None:
    trainer.check(
        config(
            architecture=architecture,
            discriminator_norm=norm,
            r1_weight=1,
            gradient_penalty_weight=1,
            diffaugment=["cutout"],
            ada_target=0.6,
        )
    )


def test_what_bounds_a_wasserstein_discriminator() -> None:
    """Either is enough, and nothing else is asked for."""
    trainer.check(config(loss="wasserstein", discriminator_norm="spectral"))
    trainer.check(config(loss="wasserstein", discriminator_norm="none", gradient_penalty_weight=0.1))
    trainer.check(config(loss="hinge"))


def test_tensorboard_that_is_not_installed_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BalancerError, match=r"pip install -e '.*\[tensorboard\]'"):
        trainer.check(config(tensorboard=True))


def test_unknown_class() -> None:
    with pytest.raises(UsageError, match="NORMAL or PNEUMONIA"):
        trainer.target_label(config(target_class="covid"), dataset())
