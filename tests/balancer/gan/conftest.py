"""A cheap stand-in for the network that watches the quality of snapshots."""

import pytest
from gan_helpers import pixel_features

from balancer.gan import monitor


@pytest.fixture
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "chest_xray", pixel_features)
    monkeypatch.setattr(monitor, "feature_network", lambda _config, _data, device: pixel_features(device))
