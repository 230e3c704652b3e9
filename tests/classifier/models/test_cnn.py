"""Networks: the published parameter counts, and a contract that every model keeps."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.models import OWN_MODELS, build_model
from classifier.models.cnn import S1CNN, S2CNN, ResidualBlock, SmallCNN, SmallResNet

SIZE = 48
BACKBONES = ["resnet18", "mobilenet_v3_small", "squeezenet1_1"]
EVERY = [*OWN_MODELS, *BACKBONES]


def build(name: str, seed: int = 0, size: int = SIZE) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(ClassifierConfig(model=name, data=DataConfig(image_size=size)))


def images(n: int, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def values(model: nn.Module) -> int:
    """Weights and BatchNorm statistics, as Keras counts; PyTorch's counter of batches is an integer and no weight."""
    return sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())


def test_s2_has_the_published_number_of_parameters() -> None:
    model = S2CNN(148)
    assert values(model) == 97_345
    last = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [sum(p.numel() for p in m.parameters()) for m in last] == [78_401]


@pytest.mark.parametrize(
    ("size", "conv", "dense", "dropout", "batch_norm"),
    [
        (148, (32, 64), (512,), (0.2,), True),
        (64, (32, 64, 128), (512, 256), (0.2, 0.5), False),
        (148, (64, 128, 256, 256), (256, 256), (0.5,), True),
        (33, (8,), (), (), True),
    ],
)
def test_s2_variants(
    size: int, conv: Sequence[int], dense: Sequence[int], dropout: Sequence[float], batch_norm: bool
) -> None:
    """The count of each layer by hand, as Keras prints it; the order of layers as published."""
    expected, side, c = 0, size, 1
    kinds: list[type[nn.Module]] = []
    for i, width in enumerate(conv):
        expected, side, c = expected + 9 * c * width + width, (side - 2) // 2, width
        kinds += [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
        if i == 0 and batch_norm:
            expected += 4 * width
            kinds.append(nn.BatchNorm2d)
    c *= side * side
    kinds.append(nn.Flatten)
    for i, width in enumerate((*dense, 1)):
        expected, c = expected + c * width + width, width
        kinds += [nn.Linear] if i == len(dense) else [nn.Linear, nn.ReLU] + [nn.Dropout] * (i < len(dropout))
    with torch.device("meta"):
        model = S2CNN(size, conv, dense, dropout, batch_norm)
    assert values(model) == expected
    assert [type(m) for m in model.layers] == kinds
    assert [m.p for m in model.layers if isinstance(m, nn.Dropout)] == list(dropout[: len(dense)])


def test_s2_starts_as_keras_does() -> None:
    """Glorot uniform, zero biases, Keras's BatchNorm constants."""
    torch.manual_seed(0)
    model = S2CNN(64)
    conv, norm, dense = model.layers[4], model.layers[3], model.layers[-1]
    assert conv.weight.abs().max() <= (6 / (9 * 32 + 9 * 64)) ** 0.5
    assert dense.weight.abs().max() <= (6 / (dense.in_features + 1)) ** 0.5
    assert all(not m.bias.any() for m in (model.layers[0], conv, dense))
    assert (norm.eps, norm.momentum) == (1e-3, pytest.approx(1 - 0.99))


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="16 px is too small for 4 blocks"):
        S2CNN(16, conv=(8, 8, 8, 8))
    with pytest.raises(UsageError, match="at least 16 px; got 15"):
        SmallCNN(15)


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("size", [16, 17, 31, 64])
def test_small_cnn_takes_any_size_with_the_same_parameters(size: int, width: int) -> None:
    model = SmallCNN(size, width).eval()
    assert sum(p.numel() for p in model.parameters()) == 1134 * width**2 + 75 * width + 1
    assert model(images(2, size)).shape == (2,)


def test_s1_has_the_published_number_of_parameters() -> None:
    model = S1CNN(28)
    assert sum(p.numel() for p in model.parameters()) == 615_521
    dense = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in dense] == [(1152, 256), (256, 128), (128, 1)]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25] * 3 + [0.5] * 2
    assert S1CNN(31).eval()(images(2, 31)).shape == (2,)


def test_the_residual_network_has_the_layers_that_it_says() -> None:
    """Counted by hand: 3 x 3 convolutions twice a block, a 1 x 1 where the width changes, BatchNorm after each."""
    expected = 9 * 16 + 2 * 16
    for c_in, c_out in ((16, 16), (16, 32), (32, 64), (64, 128)):
        expected += 9 * c_in * c_out + 9 * c_out * c_out + 2 * 2 * c_out
        expected += 0 if c_in == c_out else c_in * c_out + 2 * c_out
    expected += 128 + 1
    assert sum(p.numel() for p in SmallResNet(64).parameters()) == expected
    convolutions = [m for m in SmallResNet(64).modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 9  # nine layers with those of the stem


def test_a_block_without_a_branch_gives_what_it_takes() -> None:
    block = ResidualBlock(4, 4, 1, batch_norm=False)
    nn.init.zeros_(block.second[0].weight)
    nn.init.zeros_(block.second[0].bias)
    maps = torch.rand(2, 4, 6, 6)
    assert torch.equal(block(maps), maps)
    assert ResidualBlock(4, 8, 2, batch_norm=True)(maps).shape == (2, 8, 3, 3)


@pytest.mark.parametrize("make", [SmallCNN, SmallResNet, S1CNN, S2CNN])
def test_without_batch_norm(make: type[nn.Module]) -> None:
    """None of its layers, and a bias in every convolution."""
    model = make(28, batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))
    assert any(isinstance(m, nn.BatchNorm2d) for m in make(28).modules())


def test_the_sizes_of_s2_come_from_the_settings() -> None:
    sizes = {"conv": (8, 16), "dense": (12,), "dropout": (0.4,)}
    config = ClassifierConfig(model="s2_cnn", s2=sizes, batch_norm=False, data=DataConfig(image_size=20))
    model = build_model(config)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [8, 16]
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [12, 1]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4]


OF_BACKBONES = {"weights": "imagenet", "trainable": 3, "head": "dense", "head_width": 64, "head_dropout": 0.5}


@pytest.mark.parametrize("name", OWN_MODELS)
@pytest.mark.parametrize(
    ("key", "value"), [*OF_BACKBONES.items(), ("head_l2", 0.1), ("normalisation", "imagenet"), ("trainable", "head")]
)
def test_own_models_refuse_what_is_for_backbones(name: str, key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{key} .*torchvision backbones; model is '{name}'"):
        build_model(ClassifierConfig(model=name, **{key: value}))


@pytest.mark.parametrize("name", EVERY)
class TestContract:
    def test_an_image_is_judged_alone_in_evaluation(self, name: str) -> None:
        model, batch = build(name), images(3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # one batch gives it statistics that fit; else signals fade in deep nets
        with torch.no_grad():
            assert model.train()(images(8)).shape == (8,)
            model.eval()
            together, apart = model(batch), torch.cat([model(one[None]) for one in batch])
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
        assert len(set(together.tolist())) == 3

    def test_gradients_are_finite_and_reach_every_weight(self, name: str) -> None:
        model = build(name).train()
        nn.functional.binary_cross_entropy_with_logits(model(images(4)), torch.tensor([0.0, 1, 0, 1])).backward()
        gradients = {key: p.grad for key, p in model.named_parameters()}
        assert [key for key, g in gradients.items() if g is None or not g.isfinite().all()] == []
        assert sum(bool(g.any()) for g in gradients.values()) > 0.9 * len(gradients)

    def test_saved_and_loaded_it_is_the_same(self, name: str, tmp_path: Path) -> None:
        model = build(name).train()
        model(images(4))  # moves BatchNorm's statistics, which must be saved too
        torch.save(model.state_dict(), tmp_path / "state.pt")
        other = build(name, seed=5)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        with torch.no_grad():
            assert torch.equal(model.eval()(images(2)), other.eval()(images(2)))

    def test_the_seed_decides_the_start(self, name: str) -> None:
        one, same, other = (build(name, seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(one[k], same[k]) for k in one)
        assert not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", EVERY)
def test_both_answers_can_be_given(name: str) -> None:
    """Over seeds and images logits of both signs: SqueezeNet's last ReLU, left in place, allowed only PNEUMONIA."""
    with torch.no_grad():
        logits = torch.cat([build(name, seed).train()(images(6, seed=seed)) for seed in range(4)])
    assert logits.min() < 0 < logits.max()


@pytest.mark.parametrize("name", BACKBONES)
def test_grey_is_three_equal_channels(name: str) -> None:
    model, grey = build(name).eval(), images(2)
    with torch.no_grad():
        assert torch.equal(model(grey), model(torch.cat([grey] * 3, dim=1)))
