"""The chest X-ray features: the frozen file or nothing, one size, and a training script that does what it says."""

import hashlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import train_chest_features
from safetensors import safe_open
from torch import Tensor

from balancer.core.errors import BalancerError
from balancer.metrics import chest
from balancer.metrics.chest import ChestFeatures, load
from balancer.metrics.features import chest_xray, extract

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
    assert int(about["seed"]) == train_chest_features.SEED
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
    prepared = ChestFeatures.prepare(images)
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
    assert ChestFeatures.prepare(fine).abs().max() < 0.05
    flat = torch.full((1, 1, 200, 200), 51, dtype=torch.uint8)
    np.testing.assert_allclose(ChestFeatures.prepare(flat).numpy(), 51 / 127.5 - 1, atol=1e-5)


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


# How it was trained


class Noise:
    """What the script asks of a data set: noise, a level of its own for each class; other folds are never asked for."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 128, (30, 64, 64), dtype=np.uint8)
        self.images[18:] += 127

    def indices(self, fold: str, label: int) -> np.ndarray:
        assert fold == "train"
        return np.arange(18) if label == 0 else np.arange(18, 30)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Noise:
    monkeypatch.setattr(train_chest_features, "PER_CLASS", 4)
    return Noise()


def test_batches_hold_both_classes_equally(tiny: Noise) -> None:
    for step in range(3):
        images, labels = train_chest_features.batch(tiny, step)
        assert images.shape == (8, 1, 64, 64)
        assert labels.tolist() == [0] * 4 + [1] * 4
        assert ((images.mean(dim=(1, 2, 3)) > 0).long() == labels).all()
        assert len({image.numpy().tobytes() for image in images}) == 8, "no image twice"
        again, _ = train_chest_features.batch(tiny, step)
        assert torch.equal(images, again)
    assert not torch.equal(images, train_chest_features.batch(tiny, 0)[0])


def test_training_is_a_function_of_its_seed(tiny: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for seed, stream in ((20220105, 1), (20220105, 2), (7, 1)):
        monkeypatch.setattr(train_chest_features, "SEED", seed)
        torch.manual_seed(stream)
        network = train_chest_features.train(tiny, 3)
        assert not network.training
        states.append(network.state_dict())
    for key, value in states[0].items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, states[1][key]), key
    assert not torch.equal(states[0]["layers.0.weight"], states[2]["layers.0.weight"])
    fresh = ChestFeatures().state_dict()
    assert fresh.keys() == states[0].keys()


def test_the_script_writes_what_is_loaded(tiny: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"counts": {}, "split_hash": "s", "fingerprint": "f", "more": 1}
    tiny.describe = lambda: described  # type: ignore[attr-defined]
    trained: list[ChestFeatures] = []
    train = train_chest_features.train
    monkeypatch.setattr(train_chest_features, "load_dataset", lambda *_: tiny)
    monkeypatch.setattr(train_chest_features, "limit_threads", lambda: None)
    monkeypatch.setattr(train_chest_features, "train", lambda *given: trained.append(train(*given)) or trained[-1])
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr("sys.argv", ["train_chest_features", "--data", "phantom", "--out", str(out), "--steps", "2"])
    train_chest_features.main()
    loaded = load(out, hashlib.sha256(out.read_bytes()).hexdigest())
    for key, value in trained[0].state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["data"]) == {k: described[k] for k in ("counts", "split_hash", "fingerprint")}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_vicreg_against_its_definition() -> None:
    """Bardes et al. 2022, eq. 1 to 6, pair of features by pair of features, within each class."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 0.7, (9, 5)), rng.normal(0, 1.1, (9, 5))
    labels = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0])
    expected = 25 * np.mean((first - second) ** 2)
    for z in (first, second):
        for label in (0, 1):
            inside = z[labels == label]
            n, d = inside.shape
            mean = inside.mean(0)
            variance = [sum((row[j] - mean[j]) ** 2 for row in inside) / (n - 1) for j in range(d)]
            spread = sum(max(0, 1 - math.sqrt(v + 1e-4)) for v in variance) / d
            cross = 0.0
            for i in range(d):
                for j in range(d):
                    if i != j:
                        cross += (sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in inside) / (n - 1)) ** 2
            expected += (25 * spread + 1 * cross / d) / 4
    result = train_chest_features.vicreg(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(labels))
    assert result.item() == pytest.approx(expected)


def test_vicreg_sees_collapse_within_a_class() -> None:
    """Two points, one a class, vary over the whole batch and not within: that is what must cost."""
    labels = torch.tensor([0, 1]).repeat(8)
    collapsed = labels[:, None] * torch.ones(1, 6)
    varied = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    assert train_chest_features.vicreg(collapsed, collapsed, labels) > 20
    assert train_chest_features.vicreg(varied, varied, labels) < 10


def smooth_images(n: int, high: float) -> Tensor:
    noise = np.random.default_rng(1).normal(size=(n, 64, 64))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 2, 2))
    return torch.from_numpy(high * smooth / np.abs(smooth).max()).float()[:, None]


@pytest.mark.parametrize("sigma", [1.0, 1.7, 2.5])
def test_blur_against_scipy(sigma: float) -> None:
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 1, 64, 64))).float()
    expected = scipy.ndimage.gaussian_filter(
        images.numpy().astype(np.float64), (0, 0, sigma, sigma), mode="mirror", truncate=8
    )
    result = train_chest_features.blur(images, torch.tensor([sigma, 0.0, sigma])).numpy()
    np.testing.assert_allclose(result[[0, 2]], expected[[0, 2]], atol=4e-3)
    np.testing.assert_allclose(result[1], images[1].numpy(), atol=1e-5)


def still(n: int) -> dict[str, Tensor]:
    return {"angle": torch.zeros(n), "zoom": torch.ones(n), "shift": torch.zeros(n, 2), "bend": torch.zeros(n)}


def warped(images: Tensor, **moves: Tensor) -> Tensor:
    return train_chest_features.warp(images, **{**still(len(images)), **moves}, source=torch.Generator().manual_seed(0))


def test_warp() -> None:
    """Nothing, a quarter turn, a shift with repeated borders, and a magnification, each known exactly."""
    images = smooth_images(2, 1.0)
    torch.testing.assert_close(warped(images), images, atol=1e-4, rtol=0)
    turned = warped(images, angle=torch.full((2,), math.pi / 2))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    shifted = warped(images, shift=torch.tensor([[0.25, 0.125]] * 2))
    torch.testing.assert_close(shifted[..., :56, :48], images[..., 8:, 16:], atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted[..., :56, 48:], images[..., 8:, -1:].expand(-1, -1, -1, 16), atol=1e-4, rtol=0)
    ramp = torch.linspace(-63 / 64, 63 / 64, 64).expand(1, 1, 64, 64)
    torch.testing.assert_close(warped(ramp, zoom=torch.tensor([0.5])), ramp / 2, atol=1e-4, rtol=0)
    bent = warped(ramp, bend=torch.tensor([3.0]))
    assert 0.5 / 32 < (bent - ramp).std() < 6 / 32  # in pixels of 1 / 32


def test_degradations_do_what_their_strengths_say() -> None:
    images = smooth_images(1, 0.2).expand(1200, -1, -1, -1)
    worse, strength = train_chest_features.degraded_view(images, torch.Generator().manual_seed(0))
    assert strength.shape == (1200, 6)
    assert worse.abs().max() <= 1
    signs = train_chest_features.STRENGTHS.index("brightness")
    for i in range(6):
        left_out = (strength[:, i] == 0).float().mean().item()
        assert left_out == pytest.approx(0.5, abs=0.06)
        low, high = strength[:, i].min().item(), strength[:, i].max().item()
        assert high == pytest.approx(1, abs=0.02)
        assert low == pytest.approx(-1, abs=0.02) if i == signs else low == 0
    others = {
        name: (strength.index_fill(1, torch.tensor([i]), 0) == 0).all(1)
        for i, name in enumerate(train_chest_features.STRENGTHS)
    }
    untouched = (strength == 0).all(1)
    assert untouched.sum() > 10
    torch.testing.assert_close(worse[untouched], images[untouched], atol=1e-4, rtol=0)
    for i, (name, alone) in enumerate(others.items()):
        chosen = alone & (strength[:, i].abs() > 0.2)
        assert chosen.sum() > 5
        s, before, after = strength[chosen, i].numpy(), images[chosen].numpy(), worse[chosen].numpy()
        change = after - before
        sd = after.std(axis=(1, 2, 3)) / before.std(axis=(1, 2, 3))
        if name == "brightness":
            np.testing.assert_allclose(change.mean(axis=(1, 2, 3)), 0.3 * s, atol=1e-3)
            assert change.std(axis=(1, 2, 3)).max() < 1e-4
        elif name == "contrast":
            np.testing.assert_allclose(sd, 1 - 0.6 * s, atol=1e-3)
            np.testing.assert_allclose(change.mean(axis=(1, 2, 3)), 0, atol=1e-4)
        elif name == "noise":
            np.testing.assert_allclose(change.std(axis=(1, 2, 3)), 0.3 * s, rtol=0.1)
        elif name == "checkerboard":
            np.testing.assert_allclose(
                np.abs(change), np.broadcast_to(0.1 * s[:, None, None, None], change.shape), atol=1e-3
            )
            np.testing.assert_allclose(change.mean(axis=(1, 2, 3)), 0, atol=1e-4)
        elif name == "blur":
            assert (sd < 1).all()
            assert np.corrcoef(sd, s)[0, 1] < -0.9
        else:
            assert name == "elastic"
            assert np.corrcoef(change.std(axis=(1, 2, 3)), s)[0, 1] > 0.5


def test_weak_views_change_little_and_each_time_otherwise() -> None:
    images = smooth_images(40, 0.8)
    source = torch.Generator().manual_seed(0)
    first, second = train_chest_features.weak_view(images, source), train_chest_features.weak_view(images, source)
    assert not torch.equal(first, second)
    assert first.abs().max() <= 1
    for view in (first, second):
        inner, original = view[..., 8:-8, 8:-8].flatten(1), images[..., 8:-8, 8:-8].flatten(1)
        likeness = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(inner.numpy(), original.numpy(), strict=True)]
        assert np.mean(likeness) > 0.5
