"""Networks: published sizes, hand-counted weights, and a contract for every registered architecture."""

import io
import itertools

import pytest
import torch
from torch import Tensor, nn

from balancer.errors import UsageError
from balancer.gan.networks import (
    ARCHITECTURES,
    DCGANDiscriminator,
    DCGANGenerator,
    S2Discriminator,
    S2Generator,
    architecture,
    count_values,
    pyramid,
)

SIZES = {"dcgan": (16, 32, 48, 64, 80, 128, 148, 256), "s2": (16, 28, 36, 64, 148)}
PAIRS = [(name, spectral) for name in ARCHITECTURES for spectral in (False, True)]


@pytest.fixture(autouse=True)
def one_thread(two_threads: None) -> None:
    """Nets this small gain nothing from a second thread, and lose much when the machine is busy."""
    torch.set_num_threads(1)


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
        (16, 74, 74), (8, 148, 148), (4, 148, 148), (1, 148, 148),
    ]  # fmt: skip


def test_s2_discriminator_geometry_and_count() -> None:
    net = S2Discriminator(148, 32)
    assert shapes(net, torch.zeros(1, 1, 148, 148), (nn.Conv2d,)) == [
        (32, 74, 74), (64, 37, 37), (128, 19, 19), (256, 19, 19),
    ]  # fmt: skip
    by_hand = (25 * 1 * 32 + 32) + (25 * 32 * 64 + 64) + (25 * 64 * 128 + 128) + (25 * 128 * 256 + 256)
    assert values_by_hand(net) == by_hand + 256 * 19 * 19 + 1


def test_dcgan_64_is_the_papers_geometry() -> None:
    """Radford et al. 2016, figure 1, at half its width: 4 x 4 of 8w channels, then 4w, 2w, w, image."""
    G, D = DCGANGenerator(64, 100, 64), DCGANDiscriminator(64, 64)
    assert shapes(G, torch.zeros(1, 100), (nn.ConvTranspose2d,)) == [
        (512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (1, 64, 64),
    ]  # fmt: skip
    assert shapes(D, torch.zeros(1, 1, 64, 64), (nn.Conv2d,)) == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1),
    ]  # fmt: skip
    g_convolutions = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64)
    d_convolutions = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(p.numel() for p in G.parameters()) == g_convolutions + 2 * (512 + 256 + 128 + 64) == 3_574_656
    assert sum(p.numel() for p in D.parameters()) == d_convolutions + 2 * (128 + 256 + 512) == 2_763_520
    norms = [m.num_features for m in D.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [128, 256, 512], "no BatchNorm on D's input layer"


def test_width_is_capped_at_sixteen() -> None:
    assert [s[0] for s in shapes(DCGANGenerator(256, 5, 2), torch.zeros(1, 5), (nn.ConvTranspose2d,))] == [
        32, 32, 16, 8, 4, 2, 1,
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in ARCHITECTURES for size in SIZES[name]])
def test_output_shape_and_range(name: str, size: int) -> None:
    nets = architecture(name)
    torch.manual_seed(0)
    with torch.no_grad():
        images = nets.generator(size, 7, 2)(10 * torch.randn(3, 7))
        logits = nets.discriminator(size, 2, False)(images)
    assert images.shape == (3, 1, size, size)
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0
    assert logits.shape == (3,)


@pytest.mark.parametrize(("name", "spectral"), PAIRS)
def test_every_parameter_gets_a_finite_gradient(name: str, spectral: bool) -> None:
    nets = architecture(name)
    torch.manual_seed(0)
    G, D = nets.generator(32, 7, 4), nets.discriminator(32, 4, spectral)
    logits = D(G(torch.randn(8, 7)))
    (logits * torch.arange(8.0)).mean().backward()  # uneven, since BatchNorm's output has mean 0
    for net in (G, D):
        for key, p in net.named_parameters():
            assert p.grad is not None, key
            assert torch.isfinite(p.grad).all(), key
            assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize(("name", "spectral"), PAIRS)
def test_save_and_load(name: str, spectral: bool) -> None:
    nets = architecture(name)
    torch.manual_seed(1)
    first, second = ((nets.generator(32, 7, 2), nets.discriminator(32, 2, spectral)) for _ in range(2))
    z = torch.randn(4, 7)
    first[1](first[0](z))  # moves running statistics and singular vectors
    for mine, theirs in zip(first, second, strict=True):
        buffer = io.BytesIO()
        torch.save(mine.state_dict(), buffer)
        buffer.seek(0)
        theirs.load_state_dict(torch.load(buffer, weights_only=True))
    results = [D.eval()(G.eval()(z)) for G, D in (first, second)]
    assert torch.equal(*results)


@pytest.mark.parametrize(("name", "spectral"), PAIRS)
def test_weights_depend_on_the_seed_alone(name: str, spectral: bool) -> None:
    def build(seed: int) -> Tensor:
        torch.manual_seed(seed)
        nets = architecture(name)
        both = nets.generator(32, 7, 2), nets.discriminator(32, 2, spectral)
        return torch.cat([p.detach().flatten() for net in both for p in net.parameters()])

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize("spectral", [False, True])
def test_dcgan_starts_from_the_papers_weights(spectral: bool) -> None:
    torch.manual_seed(0)
    for net in (DCGANGenerator(64, 100, 32), DCGANDiscriminator(64, 32, spectral)):
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


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_spectral_norm_bounds_every_layer(name: str) -> None:
    torch.manual_seed(0)
    D = architecture(name).discriminator(32, 4, True)
    for _ in range(60):
        D(torch.randn(2, 1, 32, 32))
    layers = [m for m in D.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == (4 if name == "dcgan" else 5)
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.02), layer
    assert not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())


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
