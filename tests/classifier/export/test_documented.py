"""The examples of docs/export.md run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[3] / "docs/export.md"


def test_the_program_without_this_toolkit(onnx_file: Path, runs_cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It gives what `classifier predict` gives, on an image whose size needs no choice of method."""
    from classifier.inference import predict_files

    shutil.copy(onnx_file, "model.onnx")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)).save("chest.png")
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "docs/export.md", "exec"), {})
    label, _, probabilities = capsys.readouterr().out.partition(" ")
    expected = predict_files(onnx_file, [Path("chest.png")], None, "cpu").predictions[0]
    assert label == expected.label
    assert f"'PNEUMONIA': {expected.probability_pneumonia:.3f}"[:-1] in probabilities
