"""GANs of images in colour: every architecture and loss, checkpoints, and the same networks as before for grey."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import cells
from gan_helpers import CPU, config, dataset, run_training

from balancer.core.errors import BalancerError, UsageError
from balancer.core.pixels import from_planes, planes
from balancer.core.sealed import load_tensors, save_tensors
from balancer.data.dataset import Dataset
from balancer.gan import trainer
from balancer.gan.checkpoint import BEST, CHECKPOINT, load_state, read_best, read_checkpoint
from balancer.gan.losses import LOSSES
from balancer.gan.monitor import generate
from balancer.gan.networks import ARCHITECTURES, architecture, count_values
from balancer.gan.step import build_state, sample_z, train_step
from balancer.reporting.grids import save_grid, side_by_side, tile, to_uint8


def coloured() -> Dataset:
    data = dataset()
    return replace(data, images=cells(len(data.images)))


def reals(n: int) -> torch.Tensor:
    return planes(torch.from_numpy(cells(n))).float() / 127.5 - 1


@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture(name: str, norm: str) -> None:
    """Only the layers that touch images have other shapes, and only in the count of channels."""
    nets = architecture(name)
    grey, colour = ((nets.generator(16, 5, 2, c), nets.discriminator(16, 2, norm, True, c)) for c in (1, 3))
    images = colour[0](torch.randn(4, 5))
    assert images.shape == (4, 3, 16, 16)
    assert colour[1](images).shape == (4,)
    for one, three in zip(grey, colour, strict=True):
        shapes = [{k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (one, three)]
        assert shapes[0].keys() == shapes[1].keys()
        changed = [k for k in shapes[0] if shapes[0][k] != shapes[1][k]]
        assert 1 <= len(changed) <= 3, "a layer: its weight, its bias, and its vector under spectral norm"
    assert count_values(nets.generator(16, 5, 2, 1)) == count_values(grey[0])


@pytest.mark.nightly
@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_learns(loss: str) -> None:
    """With both penalties where they are possible, and with all of DiffAugment."""
    penalties = {"r1_weight": 1.0, "r2_weight": 1.0, "gradient_penalty_weight": 1.0, "discriminator_norm": "none"}
    policy = ["brightness", "saturation", "contrast", "translation", "cutout"]
    settings = config(loss=loss, diffaugment=policy, lecam_weight=0.1, **penalties)
    state = build_state(settings, CPU, 3)
    before = {k: v.clone() for k, v in state.G.state_dict().items()}
    scalars = train_step(settings, state, reals(settings.batch_size))
    assert all(torch.isfinite(value) for value in scalars.values())
    assert any(not torch.equal(before[k], v) for k, v in state.G.state_dict().items())


def test_saturation_is_for_colour() -> None:
    settings = config(diffaugment=["saturation"])
    trainer.check(settings, 3)
    with pytest.raises(UsageError, match="saturation"):
        trainer.check(settings, 1)


@pytest.mark.nightly
def test_a_training_and_its_checkpoints(tmp_path: Path) -> None:
    data, settings = coloured(), config()
    run_training(tmp_path, settings, data)
    G, saved = read_best(tmp_path, CPU, settings)
    assert saved.channels == 3
    images = to_uint8(generate(G, sample_z(settings, 2, torch.Generator())))
    assert images.shape == (2, 16, 16, 3)
    assert load_state(tmp_path, settings, build_state(settings, CPU, 3), data, 0, CPU)
    with pytest.raises(BalancerError, match="trained on colour images, the data are now read in grey"):
        load_state(tmp_path, settings, build_state(settings, CPU), dataset(), 0, CPU)


@pytest.mark.nightly
def test_a_checkpoint_without_channels_is_grey(tmp_path: Path) -> None:
    settings = config()
    run_training(tmp_path, settings, dataset())
    content = load_tensors(tmp_path / BEST, CPU)
    del content["data"]["channels"]
    save_tensors(tmp_path / BEST, content)
    G, saved = read_best(tmp_path, CPU, settings)
    assert saved.channels == 1
    assert generate(G, torch.zeros(1, settings.z_dim)).shape == (1, 1, 16, 16)
    assert read_checkpoint(tmp_path / CHECKPOINT, CPU).channels == 1


def test_batches_are_the_images() -> None:
    """Those that a loop over positions gives; mirrored where flips say so."""
    data = coloured()
    images = trainer.training_images(data, 0, CPU)
    assert images.shape == (11, 16, 16, 3)
    batch = trainer.next_batch(config(), images, 0, CPU)
    levels = from_planes(((batch + 1) * 127.5).round()).numpy().astype(np.uint8)
    known = {image.tobytes() for image in data.images[data.indices("train", 0)]}
    assert {image.tobytes() for image in levels} <= known


def test_grids(tmp_path: Path) -> None:
    images = cells(5)
    sheet = tile(images, 3)
    assert sheet.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
    assert np.array_equal(sheet[2:18, 20:36], images[1])
    assert np.array_equal(tile(images[..., 0], 3), sheet[..., 0])
    save_grid(tmp_path / "x.png", images, 3)
    beside = side_by_side({"colour": images, "grey": images[..., 0]}, 3)
    assert beside[:4] == b"\x89PNG"
