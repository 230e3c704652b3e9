"""A small trained classifier, and the service of it on a real port of this machine."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_helpers import CPU, PLAIN, Serve, checkpoint, running
from tiny import small_cnn

from balancer.data.dataset import Dataset
from classifier.serving.app import Options
from classifier.serving.examples import drawings
from classifier.serving.models import ServedModel, load_models


@pytest.fixture(scope="session")
def model_file(small_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of noise with bright and dark halves. Not to be changed."""
    return checkpoint(tmp_path_factory.mktemp("served") / "m", small_data, small_cnn())


@pytest.fixture(scope="session")
def models(model_file: Path) -> list[ServedModel]:
    return load_models([model_file], CPU)


@pytest.fixture
def serve(models: list[ServedModel]) -> Serve:
    return lambda options=PLAIN, served=None: running(served or models, options)


@pytest.fixture(scope="module")
def client(models: list[ServedModel]) -> Iterator[httpx.Client]:
    """A client of one service that a module shares."""
    with running(models, Options(examples=drawings(["NORMAL", "PNEUMONIA"]))) as shared:
        yield shared


@pytest.fixture(scope="session")
def picture(template: Path) -> bytes:
    """A test image of the noise."""
    return next((template / "test" / "NORMAL").iterdir()).read_bytes()


@pytest.fixture
def cat() -> bytes:
    """Chelsea, by Stéfan van der Walt (CC0), 150 x 100 px."""
    return (Path(__file__).parent / "cat.jpg").read_bytes()
