"""Networks: published sizes, hand-counted weights, and a contract for every registered architecture."""

import io
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from balancer.core.errors import UsageError
from balancer.gan.layers import DownBlock, MinibatchStddev, UpBlock, pyramid
from balancer.gan.networks import (
    ARCHITECTURES,
    DCGANDiscriminator,
    DCGANGenerator,
    S2Discriminator,
    S2Generator,
    architecture,
    count_values,
)

PYRAMID = (16, 32, 48, 64, 80, 148, 256)
SIZES = {name: (16, 28, 36, 64, 148) if name == "s2" else PYRAMID for name in ARCHITECTURES}
NORMS = ("batch", "spectral", "none")
KINDS = [(name, norm, stddev) for name in ARCHITECTURES for norm in NORMS for stddev in (False, True)]
CONVOLUTIONS = {
    "dcgan": 4,
    "excited": 4,
    "upsample": 4,
    "upsample_last": 4,
    "residual": 8,
    "s2": 5,
}  # of a 32 px discriminator, its head included
EVERY_KIND = pytest.mark.parametrize(("name", "norm", "stddev"), KINDS)


def values_by_hand(net: nn.Module) -> int:
    """Everything in the state but torch's own counter of batches."""
    return sum(v.numel() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked"))


def shapes(net: nn.Module, given: Tensor, kinds: tuple[type[nn.Module], ...]) -> list[tuple[int, ...]]:
    """The output shape, without the batch, of every layer of these kinds, in the order of execution."""
    seen: list[tuple[int, ...]] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
        for m in net.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        net.eval()(given)
    for handle in handles:
        handle.remove()
    return seen


def test_s2_generator_has_the_published_number_of_values() -> None:
    net = S2Generator(148, 100, 32)
    assert count_values(net) == values_by_hand(net) == 18_366_465
    # Dense, four BatchNorms of 4 values a channel, four 5 x 5 convolutions with biases
    dense = (100 + 1) * 37 * 37 * 128
    norms = 4 * (128 + 128 + 64 + 32)
    convolutions = sum(25 * a * b + b for a, b in itertools.pairwise((128, 128, 64, 32, 1)))
    assert dense + norms + convolutions == 18_366_465


def test_s2_generator_geometry() -> None:
    assert shapes(S2Generator(148, 100, 4), torch.zeros(1, 100), (nn.ConvTranspose2d,)) == [
        (16, 74, 74),
        (8, 148, 148),
        (4, 148, 148),
        (1, 148, 148),
    ]


def test_s2_discriminator_geometry_and_count() -> None:
    net = S2Discriminator(148, 32)
    assert shapes(net, torch.zeros(1, 1, 148, 148), (nn.Conv2d,)) == [
        (32, 74, 74),
        (64, 37, 37),
        (128, 19, 19),
        (256, 19, 19),
    ]
    by_hand = (25 * 1 * 32 + 32) + (25 * 32 * 64 + 64) + (25 * 64 * 128 + 128) + (25 * 128 * 256 + 256)
    assert values_by_hand(net) == by_hand + 256 * 19 * 19 + 1


def test_dcgan_64_is_the_papers_geometry() -> None:
    """Radford et al. 2016, figure 1, at half its width: 4 x 4 of 8w channels, then 4w, 2w, w, image."""
    G, D = DCGANGenerator(64, 100, 64), DCGANDiscriminator(64, 64)
    assert shapes(G, torch.zeros(1, 100), (nn.ConvTranspose2d,)) == [
        (512, 4, 4),
        (256, 8, 8),
        (128, 16, 16),
        (64, 32, 32),
        (1, 64, 64),
    ]
    assert shapes(D, torch.zeros(1, 1, 64, 64), (nn.Conv2d,)) == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (1, 1, 1),
    ]
    g_convolutions = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64)
    d_convolutions = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(p.numel() for p in G.parameters()) == g_convolutions + 2 * (512 + 256 + 128 + 64) == 3_574_656
    assert sum(p.numel() for p in D.parameters()) == d_convolutions + 2 * (128 + 256 + 512) == 2_763_520
    norms = [m.num_features for m in D.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [128, 256, 512], "no BatchNorm on D's input layer"


@pytest.mark.parametrize(
    ("name", "transposed"),
    [("dcgan", {16: 2, 32: 3, 64: 4}), ("upsample_last", {16: 1, 32: 2, 64: 3}), ("upsample", {16: 0, 64: 0})],
)
def test_how_many_doublings_are_transposed(name: str, transposed: dict[int, int]) -> None:
    """Where not all are, the last one never is: its pattern would be that of single pixels."""
    for size, n in transposed.items():
        kinds = [type(m) for m in architecture(name).generator(size, 5, 2).modules()]
        kernels = [k for k in kinds if k in (nn.ConvTranspose2d, nn.Conv2d)]
        doublings = pyramid(size)[1]
        assert kernels == [nn.ConvTranspose2d] * (1 + n) + [nn.Conv2d] * (doublings - n)
        assert kinds.count(nn.Upsample) == doublings - n


def test_width_is_capped_at_sixteen() -> None:
    assert [s[0] for s in shapes(DCGANGenerator(256, 5, 2), torch.zeros(1, 5), (nn.ConvTranspose2d,))] == [
        32,
        32,
        16,
        8,
        4,
        2,
        1,
    ]


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in ARCHITECTURES for size in SIZES[name]])
def test_output_shape_and_range(name: str, size: int) -> None:
    nets = architecture(name)
    torch.manual_seed(0)
    with torch.no_grad():
        images = nets.generator(size, 7, 2)(10 * torch.randn(3, 7))
        logits = nets.discriminator(size, 2, "none", True)(images)
    assert images.shape == (3, 1, size, size)
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0
    assert logits.shape == (3,)


@EVERY_KIND
def test_every_parameter_gets_a_finite_gradient(name: str, norm: str, stddev: bool) -> None:
    nets = architecture(name)
    torch.manual_seed(0)
    G, D = nets.generator(32, 7, 4), nets.discriminator(32, 4, norm, stddev)
    images = G(torch.randn(8, 7))
    before = images.detach().clone()
    logits = D(images)
    assert torch.equal(images, before), "D leaves its input alone"
    assert logits.shape == (8,)
    (logits * torch.arange(8.0)).mean().backward()  # uneven, since BatchNorm's output has mean 0
    for net in (G, D):
        for key, p in net.named_parameters():
            assert p.grad is not None, key
            assert torch.isfinite(p.grad).all(), key
            assert p.grad.abs().max() > 0, key


@EVERY_KIND
def test_save_and_load(name: str, norm: str, stddev: bool) -> None:
    nets = architecture(name)
    torch.manual_seed(1)
    first, second = ((nets.generator(32, 7, 2), nets.discriminator(32, 2, norm, stddev)) for _ in range(2))
    z = torch.randn(4, 7)
    first[1](first[0](z))  # moves running statistics and singular vectors
    for mine, theirs in zip(first, second, strict=True):
        buffer = io.BytesIO()
        torch.save(mine.state_dict(), buffer)
        buffer.seek(0)
        theirs.load_state_dict(torch.load(buffer, weights_only=True))
    results = [D.eval()(G.eval()(z)) for G, D in (first, second)]
    assert torch.equal(*results)


@EVERY_KIND
def test_weights_depend_on_the_seed_alone(name: str, norm: str, stddev: bool) -> None:
    def build(seed: int) -> Tensor:
        torch.manual_seed(seed)
        nets = architecture(name)
        both = nets.generator(32, 7, 2), nets.discriminator(32, 2, norm, stddev)
        return torch.cat([v.detach().flatten().float() for net in both for v in net.state_dict().values()])

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_dcgan_starts_from_the_papers_weights(norm: str) -> None:
    torch.manual_seed(0)
    for net in (DCGANGenerator(64, 100, 32), DCGANDiscriminator(64, 32, norm)):
        scales = []
        for key, p in net.named_parameters():
            if p.dim() == 4 and p.numel() > 4000:  # spectral norm keeps the drawn weight as "original"
                assert p.mean().abs().item() < 4 * 0.02 / p.numel() ** 0.5, key
                assert p.std().item() == pytest.approx(0.02, rel=0.05), key
            elif p.dim() == 1 and key.endswith("weight"):
                scales.append(p.detach())
            elif p.dim() == 1:
                assert not p.any(), key
        if scales:
            scale = torch.cat(scales)
            assert scale.mean().item() == pytest.approx(1, abs=0.006)
            assert scale.std().item() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize("name", ["dcgan", "residual", "s2"])
def test_signals_neither_vanish_nor_explode_without_normalisation(name: str) -> None:
    """He's and Glorot's scales: noise of SD 1 leaves a 64 px discriminator as logits of SD near 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        logits = architecture(name).discriminator(64, 16, "none", False)(torch.randn(64, 1, 64, 64))
    assert 0.05 < logits.std().item() < 5


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_spectral_norm_bounds_every_layer(name: str) -> None:
    torch.manual_seed(0)
    D = architecture(name).discriminator(32, 4, "spectral", False)
    for _ in range(60):
        D(torch.randn(2, 1, 32, 32))
    layers = [m for m in D.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == CONVOLUTIONS[name]
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.02), layer
    assert not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_norm_is_what_it_says(name: str) -> None:
    nets = {norm: architecture(name).discriminator(32, 4, norm, False) for norm in NORMS}
    modules = {norm: list(D.modules()) for norm, D in nets.items()}
    for norm, inside in modules.items():
        assert any(isinstance(m, nn.BatchNorm2d) for m in inside) == (norm == "batch")
        assert any(hasattr(m, "parametrizations") for m in inside) == (norm == "spectral")
        # the first layer sees the image itself, the last one makes the logit: neither has BatchNorm after it
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in inside) == CONVOLUTIONS[name]
        assert sum(isinstance(m, nn.BatchNorm2d) for m in inside) == (CONVOLUTIONS[name] - 2) * (norm == "batch")
        biases = [m.bias is not None for m in inside if isinstance(m, nn.Conv2d | nn.Linear)]
        assert biases[1:-1] == [norm != "batch"] * (CONVOLUTIONS[name] - 2), "a bias before BatchNorm does nothing"


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_without_batch_norm_images_do_not_meet(name: str) -> None:
    """A logit depends on its own image alone, unless BatchNorm or minibatch SD mix the batch."""
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    other = torch.cat([images[:1], 2 * images[1:]])
    for norm, stddev in itertools.product(NORMS, (False, True)):
        torch.manual_seed(0)
        D = architecture(name).discriminator(32, 4, norm, stddev)
        with torch.no_grad():
            for _ in range(20):
                D(images)  # settles the singular vectors
            changed = abs(D(other)[0] - D(images)[0]).item()
        assert (changed > 1e-4) == (norm == "batch" or stddev), (norm, stddev, changed)


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 1, 1, 1), (7, 2, 4, 4)])
def test_minibatch_stddev_against_numpy(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = MinibatchStddev()(x)
    assert out.shape == (shape[0], shape[1] + 1, *shape[2:])
    assert torch.equal(out[:, :-1], x)
    np.testing.assert_allclose(
        out[:, -1].numpy(), np.full_like(x[:, 0].numpy(), x.numpy().std(axis=0).mean()), rtol=1e-4
    )


def test_minibatch_stddev_of_equal_images_has_a_finite_gradient() -> None:
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    out = MinibatchStddev()(x)
    assert out[:, -1].max() < 1e-3
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_skip_of_an_upsampling_block() -> None:
    """Convolving 1 x 1 before upsampling is the published order, upsampling first, at a quarter of the cost."""
    torch.manual_seed(0)
    block, x = UpBlock(6, 4).eval(), torch.randn(3, 6, 5, 7)
    before = x.clone()
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    convolution = block.skip[0]
    expected = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], large) + convolution.bias[:, None, None]
    torch.testing.assert_close(block.skip(x), expected)
    torch.testing.assert_close(block(x), block.skip(x) + block.branch(x.clone()))
    assert torch.equal(x, before), "the block leaves its input alone"


def test_a_downsampling_block_keeps_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32, 16, 16)
    with torch.no_grad():
        blocks = [DownBlock(32, 32, "none")(x) for _ in range(8)]
    assert blocks[0].shape == (4, 32, 8, 8)
    # average pooling takes noise's variance down to a quarter; a block must add no drift of its own to that
    assert 0.15 < torch.stack(blocks).var().item() < 0.6


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_checkerboards(name: str) -> None:
    """From a flat feature map the interpolating generators draw a flat interior; transposed convolutions a pattern."""
    torch.manual_seed(0)
    G = architecture(name).generator(64, 5, 4).eval()
    layers = G.layers if name in ("residual", "s2") else G.layers[1:]
    with torch.no_grad():
        images = layers(torch.ones(1, 4 * (4 if name == "s2" else 8), 16, 16))
    interior = images[0, 0, images.shape[2] // 4 : -images.shape[2] // 4, images.shape[3] // 4 : -images.shape[3] // 4]
    assert interior.numel() >= 256
    flat = (interior - interior.mean()).abs().max() < 1e-5
    assert bool(flat) == (name in ("upsample", "residual"))


def test_pyramid_takes_the_smallest_base_of_at_least_four() -> None:
    for size in range(16, 300):
        halvings = [k for k in range(2, 9) if size % 2**k == 0 and size >> k >= 4]
        if halvings:
            assert pyramid(size) == (size >> halvings[-1], halvings[-1])
        else:
            with pytest.raises(UsageError, match=f"{size} cannot be halved twice"):
                pyramid(size)


@pytest.mark.parametrize("build", [DCGANGenerator, S2Generator])
def test_impossible_size(build: type[nn.Module]) -> None:
    with pytest.raises(UsageError, match="50"):
        build(50, 5, 2)
    with pytest.raises(UsageError, match="50"):
        DCGANDiscriminator(50, 2)


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match="'dcgan'"):
        architecture("dcgn")
