"""Shared by the tests of faults."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def chest(_chest_template: Path) -> Path:
    """The folder of noise that all tests share. Not to be changed."""
    return _chest_template
