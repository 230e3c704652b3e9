"""torchvision backbones: what is replaced, what is loaded, what stays frozen, what is refused."""

import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn
from torchvision import models

from balancer.data.dataset import Dataset
from balancer.errors import BalancerError, UsageError
from balancer.settings import ClassifierConfig, DataConfig
from classifier import trainer
from classifier.models import build_model
from classifier.models.backbones import Backbone, backbone_names
from classifier.regimes import REGIMES
from classifier.training_set import training_set

CPU = torch.device("cpu")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tiny_resnet(_name: str, weights: str | None = None) -> nn.Module:
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def tiny_densenet(_name: str, weights: str | None = None) -> nn.Module:
    return models.DenseNet(4, (2, 2), 8, num_classes=10)


def test_one_output_instead_of_a_thousand() -> None:
    with torch.device("meta"):
        original = models.resnet18()
    assert count(Backbone("resnet18", 32, "none", False)) == count(original) - 1000 * 513 + 513


@pytest.mark.parametrize(
    ("name", "features"), [("densenet161", 2208), ("convnext_base", 1024), ("vgg16", 4096), ("vit_b_16", 768)]
)
def test_large_ones_lose_only_their_last_layer(name: str, features: int) -> None:
    """On the meta device, where weights take no memory."""
    with torch.device("meta"):
        original, model = models.get_model(name, weights=None), Backbone(name, 224, "none", False)
        assert model(torch.zeros(2, 1, 224, 224)).shape == (2,)
    assert count(model) == count(original) - 1000 * (features + 1) + features + 1


def test_auxiliary_outputs_are_off() -> None:
    with torch.device("meta"):
        model = Backbone("googlenet", 64, "none", False).train()
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2,)


@pytest.mark.parametrize("head", [1000, 7])
def test_weights_from_a_file_arrive_key_by_key(head: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = models.resnet18(num_classes=head).state_dict()
    torch.save(saved, tmp_path / "w.pth")
    loaded = Backbone("resnet18", 32, str(tmp_path / "w.pth"), False).net.state_dict()
    body = [k for k in saved if not k.startswith("fc.")]
    assert len(body) == 120
    assert [k for k in body if not torch.equal(saved[k], loaded[k])] == []
    assert loaded["fc.weight"].shape == (1, 512)


def test_files_without_batch_counters_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's published ResNet files were saved before BatchNorm counted its batches."""
    monkeypatch.setattr(models, "get_model", tiny_resnet)
    saved = {k: v + 1 for k, v in tiny_resnet("").state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(saved, tmp_path / "w.pth")
    loaded = Backbone("resnet18", 32, str(tmp_path / "w.pth"), False).net.state_dict()
    assert all(torch.equal(saved[k], loaded[k]) for k in saved if not k.startswith("fc."))


def test_published_densenet_names_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's DenseNet files say denselayer1.norm.1.weight and are renamed when torchvision loads them."""
    monkeypatch.setattr(models, "get_model", tiny_densenet)
    saved = {k: v + 1 for k, v in tiny_densenet("").state_dict().items()}
    old = {
        k.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): v
        for k, v in saved.items()
        if not k.endswith("num_batches_tracked")
    }
    assert "features.denseblock2.denselayer2.norm.2.running_var" in old
    torch.save(old, tmp_path / "w.pth")
    loaded = Backbone("densenet121", 64, str(tmp_path / "w.pth"), False).net.state_dict()
    wrong = [
        k for k in saved if "num_batches" not in k and "classifier" not in k and not torch.equal(saved[k], loaded[k])
    ]
    assert wrong == []


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    with pytest.raises(BalancerError, match=r"does not fit: \d+ keys differ, such as bn1\.bias"):
        Backbone("resnet18", 32, str(tmp_path / "w.pth"), False)


def test_weights_of_another_width_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model", tiny_resnet)
    state = tiny_resnet("").state_dict()
    state["conv1.weight"] = torch.zeros(32, 3, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BalancerError, match=r"1 keys differ, such as conv1\.weight"):
        Backbone("resnet18", 32, str(tmp_path / "w.pth"), False)


class Code:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_a_file_with_code_is_never_run(tmp_path: Path) -> None:
    torch.save({"a": Code(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(BalancerError, match="code is never loaded"):
        Backbone("squeezenet1_1", 32, str(tmp_path / "w.pth"), False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, b"", b"not torch", "list"])
def test_a_file_that_holds_no_weights(content: bytes | str | None, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    if content == "list":
        torch.save([torch.zeros(1)], file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(BalancerError, match=r"does not exist|not a plain state dict|holds a list"):
        Backbone("squeezenet1_1", 32, str(file), False)


@pytest.mark.parametrize(("name", "hint"), [("resnet_18", "resnet18"), ("small_cn", "small_cnn"), ("vgg-16", "vgg16")])
def test_unknown_names_suggest_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"model is '{name}'; did you mean '{hint}'"):
        build_model(ClassifierConfig(model=name))


def test_no_name_is_of_another_task() -> None:
    names = backbone_names()
    assert {"resnet18", "densenet161", "convnext_base", "vgg16", "efficientnet_b0"} <= set(names)
    assert not [n for n in names if "rcnn" in n or "deeplab" in n or "raft" in n]


@pytest.mark.parametrize("freeze", [True, False])
def test_freezing_keeps_everything_but_the_head(
    freeze: bool, make_data: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "get_model", tiny_resnet)
    starts = []

    def recorded(config: ClassifierConfig) -> nn.Module:
        model = build_model(config)
        starts.append({k: v.clone() for k, v in model.state_dict().items()})
        return model

    monkeypatch.setattr(trainer, "build_model", recorded)
    config = ClassifierConfig(model="resnet18", data=DataConfig(image_size=32), freeze=freeze, steps=3, batch_size=4)
    data = make_data((6, 8))
    val = data.indices("val")
    train = training_set(data, REGIMES["augment"], None, 0, 0)
    fitted = trainer.fit(config, REGIMES["augment"], 0, train, (data.images[val], data.labels[val]), CPU)
    end = fitted.model.state_dict()
    moved = {k for k in end if not torch.equal(end[k], starts[0][k])}
    assert {"net.fc.weight", "net.fc.bias"} <= moved
    if freeze:
        assert moved == {"net.fc.weight", "net.fc.bias"}
    else:
        assert {"net.bn1.running_mean", "net.bn1.weight", "net.conv1.weight"} <= moved


def offline(_name: str, weights: str | None = None) -> nn.Module:
    assert weights == "DEFAULT"
    raise urllib.error.URLError("no route to host")


def test_imagenet_weights_offline_are_one_clear_error(
    classifier: Callable[..., Result], small_args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(BalancerError, match=r"cannot be downloaded .*no route to host.* --weights FILE"):
        Backbone("resnet18", 32, "imagenet", False)
    result = classifier("train", *small_args, "--model", "resnet18", "--weights", "imagenet", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the ImageNet weights of resnet18 are not cached")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "size"), [("inception_v3", 64), ("squeezenet1_1", 16), ("alexnet", 32), ("vit_b_32", 48)]
)
def test_images_too_small_for_a_network_are_refused_at_once(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"{name} .*{size}"):
        trainer.check(ClassifierConfig(model=name, data=DataConfig(image_size=size)))


@pytest.mark.parametrize("name", ["regnet_y_400mf", "shufflenet_v2_x0_5", "vit_b_16"])
def test_the_check_passes_what_can_be_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "vit_b_16":  # as it is it has 86 million weights
        real = models.VisionTransformer
        monkeypatch.setattr(
            models, "get_model", lambda _n, weights, image_size: real(image_size, 16, 1, 2, 32, 32, num_classes=5)
        )
    trainer.check(ClassifierConfig(model=name, data=DataConfig(image_size=48)))


def test_a_missing_weights_file_is_found_before_anything_is_written(tmp_path: Path) -> None:
    config = ClassifierConfig(model="squeezenet1_1", weights=str(tmp_path / "none.pth"))
    with pytest.raises(BalancerError, match="does not exist"):
        trainer.check(config)


def test_imagenet_normalisation_feeds_three_channels() -> None:
    model = Backbone("squeezenet1_1", 32, "none", False).eval()
    config = ClassifierConfig(
        model="squeezenet1_1", normalisation="imagenet", data=DataConfig(image_size=32), precision="float32"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert trainer.to_input(pixels, config, CPU).shape == (3, 3, 32, 32)
    assert trainer.predict(model, pixels, config, CPU).shape == (3,)
