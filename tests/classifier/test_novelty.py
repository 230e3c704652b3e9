"""The distance to the training data: against a plain Mahalanobis distance, its limit, and what a checkpoint keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from balancer.core.sealed import DamagedFile
from classifier import novelty
from classifier.novelty import Reference, fit, from_tensors, penultimate


def features(n: int, seed: int = 0, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, width)) @ np.random.default_rng(9).normal(size=(width, width))
    return (mixed + 3).astype(np.float32)


def reference(n: int = 200, width: int = 6) -> Reference:
    return fit(features(n, 0, width), features(300, 1, width), np.arange(n) % 2, np.arange(n) + 10)


def test_the_distance_is_mahalanobis() -> None:
    train, query = features(200).astype(np.float64), features(20, 2)
    centred = query - train.mean(axis=0)
    inverse = np.linalg.inv(np.cov(train.T, ddof=0))
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    assert reference().distances(query)[0] == pytest.approx(expected, rel=1e-6)


def test_directions_beyond_the_kept_ones_share_a_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "DIRECTIONS", 2)
    train, query = features(200).astype(np.float64), features(20, 2)
    variances, directions = np.linalg.eigh(np.cov(train.T, ddof=0))
    variances[:4] = variances[:4].mean()
    along = (query - train.mean(axis=0)) @ directions
    expected = np.sqrt((along**2 / variances).sum(axis=1))
    assert reference().distances(query)[0] == pytest.approx(expected, rel=1e-6)


def test_one_in_a_hundred_validation_images_is_called_unlike() -> None:
    known, val = reference(), features(300, 1)
    assert sum(known.novelty(row).is_unlike for row in val) == 3
    assert known.novelty(features(1) + 100).is_unlike


def test_what_never_varied_in_training_alarms() -> None:
    """A feature that is always 0 in training, as behind a ReLU, does not divide by zero."""
    train, val = (np.pad(features(n, n), ((0, 0), (0, 2))) for n in (100, 50))
    known = fit(train, val, np.zeros(100, int), np.arange(100))
    odd = train[0].copy()
    odd[-1] = 5
    assert known.novelty(odd).is_unlike
    assert np.isfinite(known.novelty(odd).distance)
    flat = fit(np.ones((4, 3)), np.ones((2, 3)), np.zeros(4, int), np.arange(4))
    assert flat.novelty(np.full(3, 1.5)).is_unlike


def test_neighbours_are_the_nearest() -> None:
    known, train = reference(), features(200)
    near = known.novelty(train[17], 3)
    assert near.nearest[0] == 17
    assert list(near.distances) == sorted(near.distances)


def test_a_checkpoint_keeps_it() -> None:
    known = reference()
    read = from_tensors(known.to_tensors(), 2, Path("model.pt"), "")
    query = features(1, 5)
    assert read.novelty(query).distance == pytest.approx(known.novelty(query).distance, rel=1e-5)
    assert read.novelty(query).nearest == known.novelty(query).nearest
    assert (read.labels.tolist(), read.positions.tolist()) == (known.labels.tolist(), known.positions.tolist())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", torch.full((6,), float("nan"))),
        ("mean", torch.zeros(5)),
        ("directions", None),
        ("points", torch.zeros(200, 6)),
        ("labels", torch.full((200,), 2, dtype=torch.uint8)),
        ("positions", torch.full((200,), -1, dtype=torch.int32)),
        ("variances", torch.tensor(1.0)),
        ("rest", 0.0),
        ("limit", "x"),
        ("limit", float("inf")),
    ],
)
def test_a_damaged_reference_is_named(key: str, value: object) -> None:
    with pytest.raises(DamagedFile, match="reference"):
        from_tensors({**reference().to_tensors(), key: value}, 2, Path("model.pt"), "train again")


def test_features_are_the_last_layers_input() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1)).eval()
    x = torch.randn(5, 3)
    with penultimate(model) as collected:
        model(x)
        model(x[:2])
    assert torch.equal(collected[0], model[1](model[0](x)))
    assert [len(c) for c in collected] == [5, 2]
    model(x)
    assert len(collected) == 2, "the hook is gone"


def test_wide_features_are_averaged() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * novelty.WIDEST, 1))
    x = torch.arange(3.0 * novelty.WIDEST)[None]
    with penultimate(model) as collected:
        model(x)
    assert torch.allclose(collected[0], x.reshape(1, -1, 3).mean(dim=2))
