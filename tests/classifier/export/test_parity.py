"""Every network of the registry: ONNX gives the probabilities of PyTorch, on 100 images, under 1e-4."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from balancer.core import onnx_file
from balancer.core.errors import BalancerError
from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.evaluation.thresholds import with_temperature
from classifier.export import writing
from classifier.export.signature import INPUT
from classifier.models import OWN_MODELS, build_model
from classifier.models.backbones import backbone_names
from classifier.systems.registry import SYSTEMS
from classifier.training.checkpoint import SavedClassifier
from classifier.training.prediction import predict, to_input

CPU = torch.device("cpu")
IMAGES, PARITY = 100, 1e-4
SIDES = {"maxvit": 224, "inception": 96, "_14": 84}  # of networks that do not take 64 px
OVER_2_GB = ("regnet_y_128gf", "vit_h_14")


def config_of(name: str) -> ClassifierConfig:
    """The settings of a system, or of a network at a small size that the network can take."""
    if name in SYSTEMS:
        system = SYSTEMS[name].config()
        values = system.model_dump(include=set(ClassifierConfig.model_fields)) | {
            "weights": "none",
            "normalisation": system.input_normalisation,
        }
        return ClassifierConfig(**values)
    side = next((side for part, side in SIDES.items() if part in name), 64)
    normalisation = "per_image" if name in OWN_MODELS else "imagenet"
    return ClassifierConfig(model=name, data=DataConfig(image_size=side), normalisation=normalisation)


def noise(side: int, n: int = IMAGES) -> np.ndarray:
    """Images of coarse noise, some dark, some bright: (n, side, side) uint8."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (n, -(-side // 8), -(-side // 8))).repeat(8, 1).repeat(8, 2)[:, :side, :side]
    return (coarse * rng.uniform(0.1, 1, (n, 1, 1))).astype(np.uint8)


def untrained(config: ClassifierConfig) -> SavedClassifier:
    """A network with random weights that tells the images apart: logits with a mean of 0 and an SD of 1.

    BatchNorm's statistics are those of the very images, in one batch, with a scale of .1. Else a random EfficientNet-B7
    is chaos: an image alone and in a batch differ by 5 in the logit, in PyTorch too. Without layers that normalise,
    torch's first weights would shrink every difference to nothing, so He et al.'s take their place.
    """
    torch.manual_seed(0)
    model = build_model(config).eval()  # without dropout, whose noise would be in the statistics
    modules = list(model.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1  # the statistics are those of the last batch
            nn.init.constant_(module.weight, 0.1)
        if not norms and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    inputs = to_input(noise(config.data.image_size), config, CPU)
    with torch.no_grad():
        model(inputs)
        head = [module for module in modules if isinstance(module, nn.Linear)][-1]
        head.weight.div_(model.eval()(inputs).std())
        head.bias[-1] -= model(inputs).mean()
    return SavedClassifier(config, ("NORMAL", "PNEUMONIA"), 1.7, 0.4, "baseline", 0, "", "", "", None, model=model)


def check(name: str) -> None:
    """Compare ONNX with PyTorch.

    A ResNet-152 with random weights makes rounding errors large: PyTorch in float32 is 2e-4 off PyTorch in float64. In
    such a case ONNX is compared with float64. ONNX may be off by what PyTorch is off, and by the bar.
    """
    saved = untrained(config_of(name))
    images = noise(saved.config.data.image_size)
    logits = predict(saved.model, images, saved.config, CPU, 20)
    assert np.ptp(logits) > 0.05, "a network that says the same of every image shows nothing"
    expected = with_temperature(logits, saved.temperature)
    content = onnx_file.sealed_bytes(writing.onnx_model(saved), writing.facts_of(saved))
    session = onnx_file.session_of(content, 1)
    chunks = [images[:1], *np.array_split(images[1:], 5)]
    got = np.concatenate([session.run(["probabilities"], {INPUT: chunk[:, None]})[0][:, 1] for chunk in chunks])
    if np.abs(got - expected).max() >= PARITY:
        exact = with_temperature(in_float64(saved, images), saved.temperature)
        rounding = np.abs(expected - exact).max()
        assert rounding > PARITY, "PyTorch is exact, so ONNX is not"
        assert np.abs(got - exact).max() < PARITY + rounding


@torch.no_grad()
def in_float64(saved: SavedClassifier, images: np.ndarray) -> np.ndarray:
    model, inputs = saved.model.double(), to_input(images, saved.config, CPU).double()
    scores: np.ndarray = torch.cat([model(chunk) for chunk in inputs.split(20)]).sigmoid().numpy()
    return scores


@pytest.mark.nightly
@pytest.mark.parametrize("name", OWN_MODELS)
def test_own_networks(name: str) -> None:
    check(name)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name: str) -> None:
    check(name)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in backbone_names() if name not in OVER_2_GB])
def test_torchvision_networks(name: str) -> None:
    check(name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", OVER_2_GB)
def test_networks_that_no_onnx_file_holds(name: str) -> None:
    """Built in full: torchvision cannot build a RegNet on the meta device."""
    with pytest.raises(BalancerError, match="2 GB"):
        onnx_file.refuse_large(build_model(config_of(name)), name)


def test_the_small_network(trained: Path, onnx_file: Path) -> None:
    """The default network, trained: 100 images."""
    from classifier.export.runtime import open_onnx
    from classifier.training.checkpoint import load_classifier

    saved = load_classifier(trained, CPU)
    images = noise(16)
    assert (
        np.abs(open_onnx(onnx_file, "cpu")[1](images) - predict(saved.model, images, saved.config, CPU)).max() < PARITY
    )
