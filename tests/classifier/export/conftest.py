"""Shared by the tests of exports: the ONNX file of the small training. Not to be changed."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def onnx_file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of :func:`trained` as ONNX."""
    from classifier.export.writing import export

    return export(trained, "onnx", tmp_path_factory.mktemp("exported") / "model.onnx").file
