"""What the tests of federations share: a data set in memory, and BatchNorm statistics of few images."""

import pytest
from memory_data import in_memory

from balancer.data.dataset import Dataset
from classifier.federation.flower import prepare


@pytest.fixture(scope="session")
def data() -> Dataset:
    return in_memory((24, 40), val=(8, 8))


@pytest.fixture
def fewer_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.training.trainer.BN_IMAGES", 64)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers by which Flower knows a run, which a server has otherwise."""
    prepare()
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
