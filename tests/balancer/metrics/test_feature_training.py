"""The recipe of every feature network: what it draws and learns, and that it goes on where it stopped."""

import hashlib
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
import train_chest_features
from safetensors import safe_open
from torch import Tensor

from balancer.core.errors import BalancerError, Interrupted
from balancer.metrics import feature_training
from balancer.metrics.chest import load
from balancer.metrics.feature_training import (
    STRENGTHS,
    Recipe,
    TrainingImages,
    batch,
    blur,
    degraded_view,
    estimate_seconds,
    train,
    vicreg,
    warp,
    weak_view,
)
from balancer.metrics.trained_features import TrainedFeatures

CPU = torch.device("cpu")
SMALL = Recipe(steps=3, batch=8)


def noise(*counts: int, channels: int = 1) -> TrainingImages:
    """Noise of 40 grey levels, each class brighter than the one before."""
    rng, n = np.random.default_rng(0), sum(counts)
    images = rng.integers(0, 40, (n, 32, 32, channels), dtype=np.uint8)
    classes = np.split(np.arange(n), np.cumsum(counts)[:-1])
    for label, positions in enumerate(classes):
        images[positions] += np.uint8(40 * label)
    return TrainingImages(images[..., 0] if channels == 1 else images, tuple(classes))


@pytest.mark.parametrize(("counts", "size"), [((18, 12), 8), ((18, 12, 9), 6), ((30,), 8), ((9, 9, 9, 9, 9, 9), 8)])
def test_batches_hold_the_classes_equally(counts: tuple[int, ...], size: int) -> None:
    data, seen = noise(*counts), []
    for step in range(12):
        images, labels = batch(data, SMALL, step)
        assert images.shape == (size, 1, 64, 64)
        present = labels.unique()
        assert len(present) == min(len(counts), 4)
        assert (torch.bincount(labels)[present] == size // len(present)).all()
        level = (images.mean(dim=(1, 2, 3)) + 1) * 127.5
        assert ((level / 40).long() == labels).all()
        assert len({image.numpy().tobytes() for image in images}) == size, "no image twice"
        again, _ = batch(data, SMALL, step)
        assert torch.equal(images, again)
        seen += present.tolist()
    assert set(seen) == set(range(len(counts)))
    assert not torch.equal(images, batch(data, SMALL, 0)[0])


def test_a_small_class_fills_its_share_by_repeating_images() -> None:
    images, labels = batch(noise(30, 2), SMALL, 0)
    assert torch.bincount(labels).tolist() == [4, 4]
    assert len({image.numpy().tobytes() for image in images[4:]}) <= 2


def test_draws_are_those_that_made_the_shipped_network() -> None:
    """The script of before drew class by class from one stream of each step; its seed is in the shipped file."""
    from balancer.core.seeding import derive_seed

    data = noise(90, 70)
    rng = np.random.default_rng(derive_seed(20220105, "batch", 5))
    chosen = np.concatenate([rng.choice(positions, 64, replace=False) for positions in data.classes])
    images, labels = batch(data, Recipe(), 5)
    expected = TrainedFeatures.prepare(torch.from_numpy(data.images[chosen])[:, None])
    assert torch.equal(images, expected)
    assert labels.tolist() == [0] * 64 + [1] * 64
    assert (Recipe().steps, Recipe().learning_rate) == (1200, 1e-3)


@pytest.mark.parametrize(("counts", "channels"), [((18, 12), 1), ((18, 12, 9), 3), ((30,), 1)])
def test_training_is_a_function_of_its_seed(counts: tuple[int, ...], channels: int) -> None:
    states, data = [], noise(*counts, channels=channels)
    for recipe, stream in ((SMALL, 1), (SMALL, 2), (replace(SMALL, seed=7), 1)):
        torch.manual_seed(stream)
        before = torch.random.get_rng_state()
        network = train(data, recipe, CPU, "n")
        assert torch.equal(torch.random.get_rng_state(), before), "the stream of the caller"
        assert not network.training
        states.append(network.state_dict())
    assert states[0].keys() == TrainedFeatures(channels).state_dict().keys()
    for key, value in states[0].items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, states[1][key]), key
    assert not torch.equal(states[0]["layers.0.weight"], states[2]["layers.0.weight"])
    assert network(torch.zeros(2, channels, 20, 30, dtype=torch.uint8)).shape == (2, 128)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, unfinished = noise(18, 12), tmp_path / "n.unfinished.pt"
    expected = train(data, SMALL, CPU, "n").state_dict()
    losses, steps = feature_training._Training.losses, []

    def noting(state: Any, *arguments: Any) -> Any:
        steps.append(state.step)
        if steps == [0, 1]:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(state, *arguments)

    monkeypatch.setattr(feature_training._Training, "losses", noting)
    with pytest.raises(Interrupted, match="saved at step 2 of 3"):
        train(data, SMALL, CPU, "n", unfinished)
    result = train(data, SMALL, CPU, "n", unfinished).state_dict()
    assert steps == [0, 1, 2]
    for key, value in expected.items():
        assert torch.equal(result[key], value), key
    assert not list(tmp_path.iterdir()), "nothing is left over"


@pytest.mark.parametrize("damage", ["a bit", "another file"])
def test_a_damaged_state_is_not_taken_up(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from balancer.core.sealed import save_tensors

    data, unfinished = noise(18, 12), tmp_path / "n.unfinished.pt"
    feature_training._Training(data, SMALL, CPU).save(unfinished)
    if damage == "a bit":
        content = bytearray(unfinished.read_bytes())
        content[len(content) // 2] ^= 1
        unfinished.write_bytes(content)
    else:
        save_tensors(unfinished, {"network": TrainedFeatures().state_dict()})
    result = train(data, SMALL, CPU, "n", unfinished).state_dict()
    assert "n.unfinished.pt" in caplog.text
    assert "anew" in caplog.text
    for key, value in train(data, SMALL, CPU, "n").state_dict().items():
        assert torch.equal(result[key], value), key


def test_weights_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_training, "INVARIANCE", math.nan)
    with pytest.raises(BalancerError, match=r"diverged.*features=random"):
        train(noise(18, 12), SMALL, CPU, "n")


def test_the_estimate_grows_with_steps() -> None:
    short, long = (estimate_seconds(replace(SMALL, steps=steps), 1, CPU) for steps in (3, 3000))
    assert 0 < short < long


def test_the_script_writes_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"counts": {}, "split_hash": "s", "fingerprint": "f", "more": 1}
    images = noise(18, 17)

    class Data:
        classes = ("A", "B")
        images: np.ndarray

        def indices(self, fold: str, label: int) -> np.ndarray:
            assert fold == "train"
            return images.classes[label]

        def describe(self) -> dict[str, Any]:
            return described

    Data.images = images.images
    monkeypatch.setattr(train_chest_features, "load_dataset", lambda *_: Data())
    monkeypatch.setattr(train_chest_features, "limit_threads", lambda: None)
    monkeypatch.setattr(train_chest_features, "RECIPE", SMALL)
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr("sys.argv", ["train_chest_features", "--data", "phantom", "--out", str(out), "--steps", "2"])
    train_chest_features.main()
    loaded = load(out, hashlib.sha256(out.read_bytes()).hexdigest())
    for key, value in train(images, replace(SMALL, steps=2), CPU, "n").state_dict().items():
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
    result = vicreg(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(labels))
    assert result.item() == pytest.approx(expected)


def test_vicreg_sees_collapse_within_a_class() -> None:
    """Two points, one a class, vary over the whole batch and not within: that is what must cost."""
    labels = torch.tensor([0, 1]).repeat(8)
    collapsed = labels[:, None] * torch.ones(1, 6)
    varied = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    assert vicreg(collapsed, collapsed, labels) > 20
    assert vicreg(varied, varied, labels) < 10


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
    result = blur(images, torch.tensor([sigma, 0.0, sigma])).numpy()
    np.testing.assert_allclose(result[[0, 2]], expected[[0, 2]], atol=4e-3)
    np.testing.assert_allclose(result[1], images[1].numpy(), atol=1e-5)


def still(n: int) -> dict[str, Tensor]:
    return {"angle": torch.zeros(n), "zoom": torch.ones(n), "shift": torch.zeros(n, 2), "bend": torch.zeros(n)}


def warped(images: Tensor, **moves: Tensor) -> Tensor:
    return warp(images, **{**still(len(images)), **moves}, source=torch.Generator().manual_seed(0))


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
    worse, strength = degraded_view(images, torch.Generator().manual_seed(0))
    assert strength.shape == (1200, 6)
    assert worse.abs().max() <= 1
    signs = STRENGTHS.index("brightness")
    for i in range(6):
        left_out = (strength[:, i] == 0).float().mean().item()
        assert left_out == pytest.approx(0.5, abs=0.06)
        low, high = strength[:, i].min().item(), strength[:, i].max().item()
        assert high == pytest.approx(1, abs=0.02)
        assert low == pytest.approx(-1, abs=0.02) if i == signs else low == 0
    others = {name: (strength.index_fill(1, torch.tensor([i]), 0) == 0).all(1) for i, name in enumerate(STRENGTHS)}
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
    first, second = weak_view(images, source), weak_view(images, source)
    assert not torch.equal(first, second)
    assert first.abs().max() <= 1
    for view in (first, second):
        inner, original = view[..., 8:-8, 8:-8].flatten(1), images[..., 8:-8, 8:-8].flatten(1)
        likeness = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(inner.numpy(), original.numpy(), strict=True)]
        assert np.mean(likeness) > 0.5
