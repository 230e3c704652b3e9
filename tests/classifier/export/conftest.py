"""Shared by the tests of exports: one small training and its ONNX file. Neither is to be changed."""

from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture(scope="session")
def trained(small_args: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of one small training."""
    from classifier.cli import main

    out = tmp_path_factory.mktemp("trained") / "run"
    result = CliRunner().invoke(main, ["train", *small_args, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def onnx_file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of :func:`trained` as ONNX."""
    from classifier.export.writing import export

    return export(trained, "onnx", tmp_path_factory.mktemp("exported") / "model.onnx").file
