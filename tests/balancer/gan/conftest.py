"""Every test of the GAN runs on one thread and watches quality on a cheap feature network."""

import pytest
import torch
from gan_helpers import pixel_features

from balancer.gan import monitor


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    """Nets this small gain nothing from a second thread, and lose much when the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "chest_xray", pixel_features)
