"""Every test of the GAN runs on one thread and watches quality on a cheap feature network."""

import pytest
from gan_helpers import pixel_features

from balancer.gan import monitor


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "chest_xray", pixel_features)
