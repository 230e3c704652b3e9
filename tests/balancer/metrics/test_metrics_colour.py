"""Metrics of images in colour: equal channels give the figures of grey, and colours are seen where they can be."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from colours import cells
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.pixels import in_colour, luminance
from balancer.metrics.features import chest_xray, extract, is_untrained, random_conv
from balancer.metrics.memorization import memorization
from balancer.metrics.pixel_classifier import PixelNet
from balancer.metrics.spectrum import compare_spectra
from balancer.metrics.two_sample import pixel_two_sample
from balancer.quality.assess import halved

CPU = torch.device("cpu")


def grey(n: int, seed: int) -> np.ndarray:
    return luminance(cells(n, seed, 32))


def recoloured(images: np.ndarray) -> np.ndarray:
    """The same luminance in other colours: red goes to blue."""
    swapped = images[..., ::-1].astype(int)
    change = luminance(images).astype(int) - luminance(images[..., ::-1].copy())
    return (swapped + change[..., None]).clip(0, 255).astype(np.uint8)


def test_equal_channels_give_the_figures_of_grey() -> None:
    real, fake, other = grey(20, 0), grey(20, 1), grey(20, 2)
    rgb = [in_colour(images) for images in (real, fake, other)]
    assert compare_spectra(*rgb) == compare_spectra(real, fake, other)
    fake = np.concatenate([fake, real[:3]])
    assert asdict(memorization(rgb[0], in_colour(fake), rgb[2])) == asdict(memorization(real, fake, other))
    assert np.array_equal(halved(rgb[0]), in_colour(halved(real)))
    network = chest_xray(CPU)
    assert np.array_equal(extract(network, rgb[0], CPU, "x"), extract(network, real, CPU, "x"))


def test_what_sees_colour_and_what_does_not() -> None:
    images = cells(6, 0, 32)
    other = recoloured(images)
    assert np.abs(luminance(other).astype(int) - luminance(images)).max() <= 3, "some levels are cut at 255"
    for network, sees in ((chest_xray(CPU), False), (random_conv(CPU), False), (random_conv(CPU, 3), True)):
        first, second = (extract(network, of, CPU, "x") for of in (images, other))
        distance = np.linalg.norm(first - second, axis=1) / np.linalg.norm(first - first.mean(axis=0), axis=1)
        assert network.sees_colour == sees
        assert (distance.min() > 0.5) if sees else (distance.max() < 0.1), network.name
    assert is_untrained(random_conv(CPU, 3).name)
    assert random_conv(CPU, 3).name != random_conv(CPU).name


def test_an_exact_copy_has_the_colours_too() -> None:
    train, fake = cells(12, 0, 32), cells(6, 1, 32)
    fake[0], fake[1] = train[3], recoloured(train[4:5])[0]
    copies = memorization(train, fake)
    assert (copies.exact_copies, copies.near_copies) == (1, 1)
    assert {(pair.synthetic, pair.training) for pair in copies.closest[:2]} == {(0, 3), (1, 4)}


@pytest.mark.nightly
def test_the_test_on_pixels_sees_colour_alone() -> None:
    real, fake = cells(30, 0, 32), recoloured(cells(30, 1, 32))
    groups = list(map(str, range(30)))
    seen = pixel_two_sample(real, fake, groups, CPU, 0, steps=40)
    blind = pixel_two_sample(luminance(real), luminance(fake), groups, CPU, 0, steps=40)
    assert seen.auroc > 0.95 > blind.auroc


def test_statistics_of_each_input() -> None:
    """Mean and SD of every channel and of every residual, against NumPy."""
    images = torch.from_numpy(cells(9, 0, 16)).permute(0, 3, 1, 2)
    net = PixelNet(16, 3)
    net.standardise(images)
    inputs = net.inputs(images).double().numpy()
    np.testing.assert_allclose(net.mean.flatten().numpy(), inputs.mean(axis=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(net.sd.flatten().numpy(), inputs.std(axis=(0, 2, 3)), rtol=1e-4)


def test_halves_are_those_of_pillow() -> None:
    image = cells(1, 0, 32)
    expected = np.asarray(Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BOX), dtype=int)
    assert np.abs(halved(image)[0] - expected).max() <= 1


def test_channels_that_differ_are_one_line() -> None:
    with pytest.raises(BalancerError, match="in colour"):
        memorization(cells(4), grey(4, 0)[:, :16, :16])
    with pytest.raises(BalancerError, match="one size"):
        pixel_two_sample(cells(4), grey(4, 0)[:, :16, :16], ["a"] * 4, CPU, 0)
