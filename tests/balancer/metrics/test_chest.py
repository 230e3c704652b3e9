"""The chest X-ray features: the frozen file or nothing, and one size."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from balancer.core.errors import BalancerError
from balancer.metrics import chest
from balancer.metrics.chest import load
from balancer.metrics.feature_training import Recipe
from balancer.metrics.features import chest_xray, extract
from balancer.metrics.trained_features import TrainedFeatures

CPU = torch.device("cpu")


def stripes(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((3 * columns + 5 * rows) % 256).astype(np.uint8)


# The shipped file


def test_the_shipped_weights() -> None:
    """Frozen, small, with its provenance inside; safetensors hold no code."""
    assert hashlib.sha256(chest.WEIGHTS.read_bytes()).hexdigest() == chest.SHA256
    assert chest.WEIGHTS.stat().st_size < 2_000_000
    with safe_open(chest.WEIGHTS, "pt") as file:
        about = file.metadata()
    assert about["name"] == "chest-xray-128"
    assert int(about["seed"]) == Recipe().seed
    assert int(about["steps"]) > 0
    assert "CC BY 4.0" in about["licence"]
    assert {"counts", "split_hash", "fingerprint"} <= json.loads(about["data"]).keys()


def test_the_loaded_network() -> None:
    net = load()
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    network = chest_xray(CPU)
    assert (network.name, network.dim, network.version) == ("chest-xray-128", 128, chest.SHA256[:12])


def test_features_do_not_depend_on_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 64, 64), dtype=np.uint8)
    network = chest_xray(CPU)
    whole = extract(network, images, CPU, "")
    assert whole.shape == (70, 128)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(extract(network, images[3:4], CPU, "")[0], whole[3], atol=1e-4)
    np.testing.assert_allclose(extract(network, images[::-1], CPU, ""), whole[::-1], atol=1e-4)


def test_against_the_layers_written_out() -> None:
    """Convolution, normalisation by the running statistics and LeakyReLU in NumPy, on the network's own weights."""
    net, image = load(), stripes(64, 64)
    x = image[None].astype(np.float64) / 127.5 - 1
    values = {k: v.numpy().astype(np.float64) for k, v in net.state_dict().items()}
    for i in range(4):
        weight, norm = values[f"layers.{3 * i}.weight"], f"layers.{3 * i + 1}."
        side, k = x.shape[1] // 2, weight.shape[-1]
        padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        y = sum(
            np.einsum("oc,chw->ohw", weight[:, :, a, b], padded[:, a : a + 2 * side : 2, b : b + 2 * side : 2])
            for a in range(k)
            for b in range(k)
        )
        scale = values[norm + "weight"] / np.sqrt(values[norm + "running_var"] + 1e-5)
        y = (y - values[norm + "running_mean"][:, None, None]) * scale[:, None, None] + values[norm + "bias"][
            :, None, None
        ]
        x = np.where(y > 0, y, 0.1 * y)
    expected = values["layers.13.weight"] @ x.reshape(-1) + values["layers.13.bias"]
    result = net(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (148, 148), (40, 96)])
def test_every_size_is_measured_at_64_px(shape: tuple[int, int]) -> None:
    images = torch.from_numpy(stripes(*shape))[None, None]
    prepared = TrainedFeatures.prepare(images)
    assert prepared.shape == (1, 1, 64, 64)
    assert prepared.dtype == torch.float32
    assert prepared.min() >= -1
    assert prepared.max() <= 1
    assert load()(images).shape == (1, 128)
    if shape == (64, 64):
        np.testing.assert_allclose(prepared[0, 0].numpy(), stripes(64, 64) / 127.5 - 1, atol=1e-6)


def test_large_images_are_brought_down_antialiased() -> None:
    """A checkerboard finer than a pixel of the small image is grey; an average over blocks stays that average."""
    rows, columns = np.mgrid[:192, :192]  # thrice the size: every third pixel would make a pattern
    fine = torch.from_numpy(np.where((rows + columns) % 2, 255, 0).astype(np.uint8))[None, None]
    assert TrainedFeatures.prepare(fine).abs().max() < 0.05
    flat = torch.full((1, 1, 200, 200), 51, dtype=torch.uint8)
    np.testing.assert_allclose(TrainedFeatures.prepare(flat).numpy(), 51 / 127.5 - 1, atol=1e-5)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match=r"w\.safetensors is missing; install the package again"):
        load(tmp_path / "w.safetensors")
    with pytest.raises(BalancerError, match="is missing"):
        load(tmp_path)


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    """One bit changed, cut short, empty, or a pickle: by the hash, before it is parsed."""
    whole, path = chest.WEIGHTS.read_bytes(), tmp_path / "w.safetensors"
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content in (bytes(flipped), whole[:-1], b"", pickle.dumps([1]), whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(
            BalancerError, match=rf"SHA-256 .*, expected {chest.SHA256[:12]}.*it was not loaded"
        ) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert torch.equal(load(path).layers[0].weight, load().layers[0].weight)
