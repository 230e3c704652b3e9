"""What the tests of federations share: a data set in memory, and BatchNorm statistics of few images."""

import pytest
from memory_data import in_memory

from balancer.data.dataset import Dataset


@pytest.fixture(scope="session")
def data() -> Dataset:
    return in_memory((24, 40), val=(8, 8))


@pytest.fixture
def fewer_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.training.trainer.BN_IMAGES", 64)
