"""Feature networks: fixed for ever, named, cached, and never executed from a stranger's file."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Trap

from balancer.core.errors import BalancerError
from balancer.metrics import features
from balancer.metrics.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    RandomConv,
    extract,
    inception,
    inception_weights,
    random_conv,
    random_subset,
)

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty torch hub cache; a download fails as it does offline."""

    def offline(*_args: object, **_kwargs: object) -> None:
        raise BalancerError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(features, "download", offline)
    return tmp_path / "hub" / "checkpoints" / INCEPTION_FILE


def stripes(height: int, width: int) -> torch.Tensor:
    rows, columns = np.mgrid[:height, :width]
    return torch.from_numpy(((3 * columns + 5 * rows) % 256).astype(np.uint8))[None, None]


def test_random_conv_never_changes() -> None:
    """Pinned: other weights would make all figures published so far incomparable; raise ``version`` then."""
    sums = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest()[:16] for k, v in RandomConv().state_dict().items()}
    assert sums == {
        "conv0": "582d6c435f17d979",
        "conv1": "a5e961b9b7ebf7b2",
        "conv2": "d3ad8b5a6ce339e5",
        "projection": "f96e88ce1ca322ec",
    }
    network = random_conv(CPU)
    assert (network.name, network.dim) == ("random-conv-128", 128)


@pytest.mark.parametrize(
    ("shape", "first", "norm"),
    [
        ((64, 64), [0.168899, -0.309024, -0.408743, 0.407917], 11.832741),
        ((40, 48), [-1.034426, 0.815906, -1.503811, 0.563115], 12.504458),  # resized, antialiased
    ],
)
def test_features_of_a_known_image(shape: tuple[int, int], first: list[float], norm: float) -> None:
    result = random_conv(CPU).module(stripes(*shape))
    assert result.shape == (1, 128)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result[0, :4].numpy(), first, atol=1e-3)
    assert float(result.norm()) == pytest.approx(norm, abs=1e-3)


def test_random_conv_against_loops() -> None:
    """A convolution written out in NumPy, on the network's own weights."""
    net, image = RandomConv(), stripes(64, 64)
    x = image[0].numpy().astype(np.float64) / 127.5 - 1
    for i in range(3):
        weight = net.state_dict()[f"conv{i}"].numpy().astype(np.float64)
        side = x.shape[1]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        y = sum(
            np.einsum("oc,chw->ohw", weight[:, :, a, b], padded[:, a : a + side, b : b + side])
            for a in range(3)
            for b in range(3)
        )
        x = np.maximum(y, 0).reshape(len(weight), side // 2, 2, side // 2, 2).mean(axis=(2, 4))
    x = x.reshape(128, 4, 2, 4, 2).mean(axis=(2, 4))
    expected = 3 * x.reshape(-1) @ net.state_dict()["projection"].numpy()
    np.testing.assert_allclose(net(image)[0].numpy(), expected, atol=2e-4)


def counting(calls: list[int]) -> FeatureNetwork:
    def module(batch: torch.Tensor) -> torch.Tensor:
        assert batch.dtype == torch.uint8
        assert batch.dim() == 4
        assert batch.shape[1] == 1
        calls.append(len(batch))
        return batch.flatten(1)[:, :3].float()

    return FeatureNetwork("counter", 3, "1", module, batch_size=4)


def test_extract_batches_in_order_and_keeps_results(cache: Path) -> None:
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    calls: list[int] = []
    first = extract(counting(calls), images, CPU, "real", keep=True)
    assert calls == [4, 4, 2]
    assert first.dtype == np.float64
    assert np.array_equal(first, images.reshape(10, -1)[:, :3])
    assert np.array_equal(extract(counting(calls), images, CPU, "real", keep=True), first)
    assert calls == [4, 4, 2], "the second call reads the disk"
    assert not list(cache.rglob("*.tmp"))


def test_extract_is_not_fooled(cache: Path) -> None:
    """Other pixels, another order, another shape, another network or version: computed anew."""
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    calls: list[int] = []
    network = counting(calls)
    extract(network, images, CPU, "real", keep=True)
    other = images.copy()
    other[9, 3, 3] += 1
    for changed in (other, images[::-1], images.reshape(10, 2, 8), images[:9]):
        before = len(calls)
        result = extract(network, changed, CPU, "real", keep=True)
        assert len(calls) > before
        assert np.array_equal(result, changed.reshape(len(changed), -1)[:, :3])
    for name, version in (("counter", "2"), ("counter2", "1")):
        before = len(calls)
        extract(FeatureNetwork(name, 3, version, network.module, 4), images, CPU, "real", keep=True)
        assert len(calls) > before


def test_extract_without_keep_writes_nothing(cache: Path) -> None:
    calls: list[int] = []
    images = np.zeros((2, 4, 4), np.uint8)
    extract(counting(calls), images, CPU, "synthetic")
    extract(counting(calls), images, CPU, "synthetic")
    assert calls == [2, 2]
    assert extract(counting(calls), images[:0], CPU, "synthetic").shape == (0, 3)
    assert not cache.exists(), "no folder either"


def test_kept_features_are_found_again_by_later_versions(cache: Path) -> None:
    """Pinned: another key would leave what users have kept unread, and Inception needs tens of minutes."""
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    extract(counting([]), images, CPU, "real", keep=True)
    extract(counting([]), images[::-1, :, ::2], CPU, "real", keep=True)  # not contiguous
    extract(counting([]), images[:0], CPU, "real", keep=True)
    assert {path.name for path in (cache / "features").iterdir()} == {
        "counter-578cb4ac368bdadff470d4b7.npz",
        "counter-0395c6ba8f6916b3f6139014.npz",
        "counter-1a387c52391fe8001ad73d3a.npz",
    }


def test_features_of_an_earlier_version_are_read_with_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    made = extract(counting([]), images, CPU, "real", keep=True)
    (path,) = (cache / "features").iterdir()
    path.unlink()
    path = path.with_suffix(".npy")
    np.save(path, made.astype(np.float32))
    calls: list[int] = []
    assert np.array_equal(extract(counting(calls), images, CPU, "real", keep=True), made)
    assert not calls
    assert [str(path) in line for line in caplog.messages] == [True]
    np.save(path, made.astype(np.float32)[1:])
    with pytest.raises(BalancerError, match=path.name):
        extract(counting(calls), images, CPU, "real", keep=True)


@pytest.mark.parametrize("where", ["given", "cached"])
def test_a_file_with_another_hash_is_refused_unread(where: str, hub: Path, tmp_path: Path) -> None:
    path = hub if where == "cached" else tmp_path / "mine.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Trap(tmp_path / "exploded")))
    with pytest.raises(BalancerError, match=r"SHA-256 .* expected 6726825d0af5.*not loaded"):
        inception_weights("auto" if where == "cached" else str(path))
    assert not (tmp_path / "exploded").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "exploded").exists(), "the bomb works"


def test_missing_weights(hub: Path, tmp_path: Path) -> None:
    assert inception_weights("off") is None
    assert inception_weights("auto") is None, "offline: no weights, no error"
    with pytest.raises(BalancerError, match=r"none\.pth does not exist"):
        inception_weights(str(tmp_path / "none.pth"))
    with pytest.raises(BalancerError, match="does not exist"):
        inception_weights(str(tmp_path))


def test_a_file_with_the_right_hash_is_taken(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert inception_weights(str(tmp_path / "w.pth")) == tmp_path / "w.pth"
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"weights")
    assert inception_weights("auto") == hub


def test_auto_downloads_with_the_hash(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_url: str, path: Path, digest: str) -> None:
        assert digest == hashlib.sha256(b"weights").hexdigest()
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")

    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(features, "download", download)
    assert inception_weights("auto") == hub


def test_random_subset() -> None:
    chosen = random_subset(50, 20, 0, "a")
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 20
    assert chosen.min() >= 0
    assert chosen.max() < 50
    assert np.array_equal(chosen, random_subset(50, 20, 0, "a"))
    assert not np.array_equal(chosen, random_subset(50, 20, 0, "b"))
    assert not np.array_equal(chosen, random_subset(50, 20, 1, "a"))
    assert random_subset(5, 5, 0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_inceptions_plumbing_with_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights are not at hand; the network, its input and its 2,048 outputs are the same with others."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        network = inception(tmp_path / "absent.pth", CPU)
    assert (network.name, network.dim) == ("inception-2048", 2048)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    features = extract(network, images, CPU, "synthetic")
    assert features.shape == (3, 2048)
    assert np.isfinite(features).all()
    assert (features[0] != features[1]).any()
    assert FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE == 299
