"""Shared by the tests of commands: a folder of noise, and a GAN that was trained on it. None is to be changed."""

from pathlib import Path

import pytest
from commands import TINY_GAN, balancer, done, sets


@pytest.fixture(scope="session")
def chest(_chest_template: Path) -> Path:
    """The folder of noise that all tests share."""
    return _chest_template


@pytest.fixture(scope="session")
def gan_run(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, whose rate is high so that its images are not all alike."""
    path = tmp_path_factory.mktemp("gan") / "run"
    done(balancer("gan-train", "--data", chest, "--steps", 3, *TINY_GAN, *sets(lr_generator=0.05), "--out", path))
    return path
