"""Weights to begin from: they arrive key by key, code is never run, and what does not fit is named."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from click.testing import Result
from loopback import Site, serving
from planted import Trap
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import save_tensors
from classifier.models.backbones import Backbone
from classifier.models.heads import HeadDesign
from classifier.models.weights import load_weights, read_state, weights_hash
from classifier.training import trainer

State = dict[str, torch.Tensor]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> State:
    """torchvision's networks are small here; the weights of one of them."""
    monkeypatch.setattr(models, "get_model", tiny.resnet)
    torch.manual_seed(0)
    return {k: v + 1 for k, v in tiny.resnet("").state_dict().items()}


def arrived(model: Backbone, saved: State, removed: str) -> list[str]:
    """Keys of a file that are not in the model as they were; those of the part that the head replaces aside."""
    loaded = model.net.state_dict()
    kept = {k: v for k, v in saved.items() if not k.startswith(removed) and not k.endswith("num_batches_tracked")}
    assert len(kept) > 10
    return [k for k, v in kept.items() if not torch.equal(loaded[k], v)]


# ---------------------------------------------------------------- what loads


@pytest.mark.parametrize("head", [HeadDesign(), HeadDesign("dense", 2, 9)])
@pytest.mark.parametrize("form", ["plain", "safetensors", "state_dict", "model"])
def test_every_form_arrives_key_by_key(form: str, head: HeadDesign, small: State, tmp_path: Path) -> None:
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(small, file)
    else:
        torch.save(small if form == "plain" else {form: small, "epoch": 3}, file)
    assert arrived(Backbone("resnet18", 32, str(file), head), small, "fc.") == []


def test_the_original_resnet_arrives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = models.resnet18(num_classes=7).state_dict()
    torch.save(saved, tmp_path / "w.pth")
    assert arrived(Backbone("resnet18", 32, str(tmp_path / "w.pth")), saved, "fc.") == []


def test_a_dense_head_takes_the_convolutions_of_a_vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model", tiny.vgg)
    saved = {f"{k}": v + 1 for k, v in tiny.vgg("").state_dict().items()}
    torch.save(saved, tmp_path / "w.pth")
    pooled = Backbone("vgg16", 32, str(tmp_path / "w.pth"), HeadDesign("dense")).net.state_dict()
    assert set(pooled) == {k for k in saved if k.startswith("features")}
    assert all(torch.equal(pooled[k], saved[k]) for k in pooled)
    whole = Backbone("vgg16", 32, str(tmp_path / "w.pth")).net.state_dict()
    assert torch.equal(whole["classifier.3.weight"], saved["classifier.3.weight"])


def test_files_without_batch_counters_load(small: State, tmp_path: Path) -> None:
    """torchvision's published ResNet files were saved before BatchNorm counted its batches."""
    torch.save({k: v for k, v in small.items() if not k.endswith("num_batches_tracked")}, tmp_path / "w.pth")
    assert arrived(Backbone("resnet18", 32, str(tmp_path / "w.pth")), small, "fc.") == []


def test_published_densenet_names_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's DenseNet files say denselayer1.norm.1.weight and are renamed when torchvision loads them."""
    monkeypatch.setattr(models, "get_model", tiny.densenet)
    saved = {k: v + 1 for k, v in tiny.densenet("").state_dict().items()}
    old = {}
    for key, value in saved.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            key = key.replace(f"{part}.", f"{part[:-1]}.{part[-1]}.") if "denselayer" in key else key
        old[key] = value
    assert "features.denseblock2.denselayer2.norm.2.running_var" in old
    torch.save(old, tmp_path / "w.pth")
    assert arrived(Backbone("densenet121", 64, str(tmp_path / "w.pth")), saved, "classifier.") == []


def test_a_classifier_of_ours_is_a_start_too(small: State, tmp_path: Path) -> None:
    """Its network below the head, whatever head it had."""
    first = Backbone("resnet18", 32, head=HeadDesign("dense", 2, 5))
    content = {"kind": "classifier", "format": 3, "config": {}, "state": first.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    assert arrived(Backbone("resnet18", 32, str(tmp_path / "model.pt")), dict(first.net.state_dict()), "-") == []


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.net.", "backbone."])
def test_a_known_prefix_before_every_key_is_left_out(
    prefix: str, small: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of DataParallel, Lightning and torch.compile, alone or together."""
    torch.save(
        {"state_dict": {f"{prefix}{key}": value for key, value in small.items()}, "epoch": 3}, tmp_path / "w.ckpt"
    )
    with caplog.at_level("INFO", "balancer"):
        assert arrived(Backbone("resnet18", 32, str(tmp_path / "w.ckpt")), small, "fc.") == []
    assert f"begins with {prefix}" in caplog.text


def test_averaged_weights_of_torch_arrive(small: State, tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(tiny.resnet(""))
    averaged.module.load_state_dict(small)
    torch.save({"model": {"state_dict": averaged.state_dict()}}, tmp_path / "w.pth")
    assert arrived(Backbone("resnet18", 32, str(tmp_path / "w.pth")), small, "fc.") == []


def test_a_network_whose_own_keys_begin_alike_is_left_as_it_is(small: State, tmp_path: Path) -> None:
    """DenseNet's keys all begin with ``features.``, which is no wrapper."""
    torch.save({f"features.{key}": value for key, value in small.items()}, tmp_path / "w.pth")
    with pytest.raises(BalancerError, match=r"unexpected \(features\.conv1\.weight"):
        Backbone("resnet18", 32, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_arrive(dtype: torch.dtype, small: State, tmp_path: Path) -> None:
    torch.save(
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in small.items()},
        tmp_path / "w.pth",
    )
    loaded = Backbone("resnet18", 32, str(tmp_path / "w.pth")).net.state_dict()
    assert torch.equal(loaded["conv1.weight"], small["conv1.weight"].to(dtype).float())


def test_weights_for_another_number_of_classes_arrive(small: State, tmp_path: Path) -> None:
    """The last layer is replaced."""
    torch.save(small | {"fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}, tmp_path / "w.pth")
    assert arrived(Backbone("resnet18", 32, str(tmp_path / "w.pth")), small, "fc.") == []


# ---------------------------------------------------------------- what does not


def refused(state: object, tmp_path: Path, name: str = "resnet18") -> str:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BalancerError) as caught:
        Backbone(name, 32, str(tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_of_another_network_are_refused_with_the_first_keys(tmp_path: Path) -> None:
    message = refused(models.squeezenet1_1().state_dict(), tmp_path)
    assert "does not fit resnet18: 100 missing (conv1.weight, bn1.weight, bn1.bias, ...); 52 unexpected" in message


def test_missing_unexpected_and_wrongly_shaped_keys_are_told_apart(small: State, tmp_path: Path) -> None:
    state = {k: v for k, v in small.items() if k != "bn1.weight"} | {"conv1.weight": torch.zeros(32, 3, 7, 7)}
    state["extra"] = torch.zeros(1)
    message = refused(state, tmp_path)
    assert "1 missing (bn1.weight); 1 unexpected (extra); 1 of another shape" in message
    assert "(conv1.weight (32, 3, 7, 7) where (64, 3, 7, 7) is needed)" in message


def test_a_known_prefix_before_weights_of_another_network(small: State, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in small.items() if key != "bn1.weight"}
    message = refused(state, tmp_path)
    assert "begins with module." in message
    assert "conv1.weight" in message


def test_weights_that_are_no_numbers_are_refused(small: State, tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        message = refused({**small, "bn1.weight": torch.full_like(small["bn1.weight"], value)}, tmp_path)
        assert "not finite (bn1.weight)" in message
    message = refused({**small, "bn1.weight": small["bn1.weight"].to(torch.int8)}, tmp_path)
    assert "(bn1.weight torch.int8)" in message


def test_a_damaged_classifier_of_ours_is_no_start(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    save_tensors(file, {"kind": "classifier", "state": {"net.conv1.weight": torch.zeros(1000)}})
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(BalancerError, match=r"model\.pt is damaged"):
        Backbone("resnet18", 32, str(file))


def test_a_file_with_code_is_never_run(tmp_path: Path) -> None:
    assert "code is never loaded" in refused({"a": Trap(tmp_path / "ran")}, tmp_path, "squeezenet1_1")
    assert not (tmp_path / "ran").exists()


def test_a_file_that_holds_other_things(tmp_path: Path) -> None:
    assert "holds a list; expected a state dict" in refused([torch.zeros(1)], tmp_path, "squeezenet1_1")
    message = refused({"conv1.weight": torch.zeros(1), "epoch": 3}, tmp_path, "squeezenet1_1")
    assert "entries that are no tensors (epoch)" in message


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"<html>", "cut"])
def test_a_file_that_cannot_be_read(name: str, content: bytes | str | None, tmp_path: Path) -> None:
    file = tmp_path / name
    if content == "cut":
        whole = {"a": torch.zeros(5000)}
        save_file(whole, file) if name.endswith("safetensors") else torch.save(whole, file)
        file.write_bytes(file.read_bytes()[:9000])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(BalancerError, match=r"does not exist|is not a plain state dict") as caught:
        Backbone("squeezenet1_1", 32, str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match=r"none\.pth does not exist"):
        trainer.check(tiny.settings(model="squeezenet1_1", weights=str(tmp_path / "none.pth")))


# ---------------------------------------------------------------- ImageNet weights by name


@dataclass
class Published:
    """Weights on a server of this machine, under a name that holds their hash, and their place in torch's cache."""

    site: Site
    place: Path


@pytest.fixture
def published(small: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    torch.save(small, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    with serving(content, name) as site:
        found = SimpleNamespace(DEFAULT=SimpleNamespace(url=site.url))
        monkeypatch.setattr(models, "get_model_weights", lambda _name: found)
        yield Published(site, tmp_path / "hub" / "checkpoints" / name)


def test_imagenet_weights_are_downloaded_once(published: Published, small: State) -> None:
    for _ in range(2):
        assert arrived(Backbone("resnet18", 32, "imagenet"), small, "fc.") == []
    assert published.place.exists()
    assert len(published.site.requests) == 1


def test_a_damaged_download_is_not_kept(published: Published) -> None:
    published.site.content = b"<html>please log in</html>"
    with pytest.raises(BalancerError, match=r"gave a file with sha256 .* or give --weights FILE"):
        Backbone("resnet18", 32, "imagenet")
    assert not published.place.exists()


def test_a_cached_file_that_was_cut_short_is_noticed(published: Published) -> None:
    Backbone("resnet18", 32, "imagenet")
    published.place.write_bytes(published.place.read_bytes()[:-100])
    with pytest.raises(BalancerError, match="is not the file that torchvision publishes"):
        Backbone("resnet18", 32, "imagenet")


def test_offline_is_one_clear_error_that_says_both_ways(
    published: Published, classifier: Callable[..., Result], small_args: tuple[str, ...], tmp_path: Path
) -> None:
    published.site.status = 503
    result = classifier("train", *small_args, "--model", "resnet18", "--weights", "imagenet", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the ImageNet weights of resnet18 are not cached: ")
    assert f"download {published.site.url} by hand and save it as {published.place}" in result.stderr
    assert "or give --weights FILE" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_names_that_torchvision_publishes_hold_a_hash() -> None:
    """Of every network that a system needs: what is downloaded can be checked."""
    from classifier.models.weights import _HASH

    for name in ("densenet161", "resnet18", "resnet50", "densenet121", "convnext_base", "resnet101", "vgg16"):
        assert _HASH.search(models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[1])


def test_a_network_without_published_weights(small: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model_weights", lambda _name: SimpleNamespace())
    with pytest.raises(UsageError, match="publishes no ImageNet weights of resnet18"):
        Backbone("resnet18", 32, "imagenet")


def test_rescaling_networks_go_by_the_normalisation() -> None:
    """GoogLeNet learnt on [-1, 1]; torchvision turns ImageNet's normalisation into that."""
    with torch.device("meta"):
        nets: list[nn.Module] = [Backbone("googlenet", 64, imagenet_input=b).net for b in (False, True)]
    assert [net.transform_input for net in nets] == [False, True]


def test_the_hash_names_the_content_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    assert (weights_hash("none"), weights_hash("imagenet")) == ("none", "imagenet")
    file.write_bytes(b"abc")
    assert weights_hash(str(file)) == "ba7816bf8f01cfea"  # FIPS 180-2's example
    with pytest.raises(BalancerError, match="cannot be read"):
        weights_hash(str(tmp_path / "none.pt"))


def forged(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of a safetensors file, whose length stands before it."""
    save_file({"a": torch.ones(2, 3)}, file)
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header["a"])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.update(shape=[2**62, 4]),
        lambda tensor: tensor.update(shape=[-1]),
        lambda tensor: tensor.update(dtype="XX"),
        lambda tensor: tensor.update(data_offsets=[0, 2**63]),
        lambda tensor: tensor.update(data_offsets=[24, 0]),
        lambda tensor: tensor.pop("shape"),
    ],
)
def test_a_forged_header_of_safetensors_is_refused(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    forged(tmp_path / "w.safetensors", change)
    with pytest.raises(BalancerError, match=r"w\.safetensors") as error:
        read_state(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


def test_weights_without_values_are_refused(small: State, tmp_path: Path) -> None:
    torch.save({key: value.to("meta") for key, value in small.items()}, tmp_path / "w.pth")
    with pytest.raises(BalancerError, match=r"w\.pth does not fit resnet18"):
        load_weights(tiny.resnet(""), "resnet18", str(tmp_path / "w.pth"), ["fc"])
