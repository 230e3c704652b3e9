"""The shipped features respond to everything that can be wrong with a set of images, the more the worse it is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import feature_response
import numpy as np
import pytest
import torch

from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.split import patient_halves
from balancer.metrics.features import chest_xray


@pytest.fixture(scope="module")
def real(real_data: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(real_data)))


@pytest.mark.realdata
@pytest.mark.nightly
def test_distances_rise_with_every_step_of_every_degradation(real: Dataset) -> None:
    result = feature_response.responses(chest_xray(torch.device("cpu")), real)
    assert result.keys() == feature_response.DEGRADATIONS.keys()
    for name, response in result.items():
        frechet, kid = response.frechet, response.kid
        assert (np.diff(frechet) > 0).all(), (name, frechet)
        assert frechet[-1] > 3 * frechet[0], (name, frechet)
        assert (np.diff(kid) > 0).all(), (name, kid)


@pytest.mark.realdata
def test_features_keep_the_class_and_the_variation_within_it(real: Dataset) -> None:
    facts = feature_response.facts(chest_xray(torch.device("cpu")), real)
    probe, dimensions, _, seen_unseen, seen_seen = facts.values()
    assert probe > 0.98
    assert dimensions > 25  # class supervision alone leaves a handful
    assert 0.8 < seen_unseen / seen_seen < 1.25  # images of its own training are measured like others


def test_fewer_images_are_drawn_from_both_whole_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first by name, which come from other sources than the rest; all of a half where it is not cut."""
    groups = [str(i) for i in range(200)]
    data: Any = SimpleNamespace(
        indices=lambda _fold, label: np.arange(200) + 200 * label,
        groups=groups * 2,
        images=np.broadcast_to((np.arange(400) % 200)[:, None, None], (400, 2, 2)).astype(np.uint8),
    )
    seen: list[np.ndarray] = []

    def noting(_network: object, images: np.ndarray, *_: object) -> np.ndarray:
        seen.append(images[:, 0, 0])
        return images[:, 0].astype(float)

    monkeypatch.setattr(feature_response, "extract", noting)
    monkeypatch.setattr(
        feature_response, "DEGRADATIONS", {"none": feature_response.Degradation("", (0,), lambda images, *_: images)}
    )
    halves = patient_halves(groups)
    for limit in (40, None):
        seen.clear()
        feature_response.responses(chest_xray(torch.device("cpu")), data, limit)
        for half, shown in zip(halves, seen, strict=True):
            assert len(set(shown)) == (limit or 100)
            assert set(shown) <= set(half)
            assert np.histogram(np.searchsorted(half, shown), bins=4, range=(0, 100))[0].min() >= 5


def test_degradations_leave_images_alone_at_level_0_and_change_them_above() -> None:
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32))
    for name, degradation in feature_response.DEGRADATIONS.items():
        levels, degrade = degradation.levels, degradation.degrade
        assert levels[0] == 0
        np.testing.assert_allclose(degrade(images, 0, images[::-1]), images, atol=1e-9, err_msg=name)
        assert not np.allclose(degrade(images, levels[-1], images[::-1]), images), name


def test_mode_dropping_keeps_the_count_and_drops_distinct_images() -> None:
    images = np.arange(40.0)[:, None, None] * np.ones((40, 4, 4))
    kept = feature_response.mode_drop(images, 0.75, images)
    assert len(kept) == 40
    assert len(np.unique(kept[:, 0, 0])) == 10
