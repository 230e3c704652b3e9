"""The numbers in the graph are those of the toolkit: temperature, threshold, classes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.evaluation.thresholds import decide, with_temperature
from classifier.export.graph import ClassifierGraph
from classifier.export.signature import INPUT, OUTPUTS
from classifier.training.checkpoint import SavedClassifier


class Mean(nn.Module):
    """Logits that the pixels spell out: their mean, once for each class where there are several."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3)) * 120 - 60
        return mean if self.classes == 2 else torch.stack([mean * (k - 1) / 2 for k in range(self.classes)], dim=1)


def saved(classes: tuple[str, ...], temperature: float, threshold: float) -> SavedClassifier:
    config = ClassifierConfig(data=DataConfig(image_size=16), normalisation="unit")
    model = Mean(len(classes))
    return SavedClassifier(config, classes, temperature, threshold, "baseline", 0, "", "", "", None, model=model)


def images() -> Tensor:
    return torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16)


@settings(max_examples=20)
@given(st.sampled_from([0.05, 0.7, 1.0, 3.0, 20.0]), st.floats(0, 1, allow_subnormal=False))
def test_two_classes(temperature: float, threshold: float) -> None:
    logits, probabilities, label = ClassifierGraph(saved(("benign", "malignant"), temperature, threshold))(images())
    score = logits.double().sigmoid().numpy()
    expected = with_temperature(score, temperature)
    assert probabilities[:, 1].numpy() == pytest.approx(expected, abs=2e-6)
    assert probabilities.sum(1).numpy() == pytest.approx(np.ones(256), abs=1e-6)
    clear = np.abs(score - threshold) > 1e-7 * threshold
    assert (label.numpy() == decide(score, temperature, threshold))[clear].all()


@pytest.mark.parametrize(("threshold", "positive"), [(0.0, 256), (np.nextafter(1.0, 2.0), 0), (2.0, 0)])
def test_the_ends_of_the_threshold(threshold: float, positive: int) -> None:
    assert int(ClassifierGraph(saved(("benign", "malignant"), 1.0, threshold))(images())[2].sum()) == positive


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_three_classes(temperature: float) -> None:
    logits, probabilities, label = ClassifierGraph(saved(("A", "B", "C"), temperature, 0.5))(images())
    expected = with_temperature(logits.double().softmax(1).numpy(), temperature)
    assert probabilities.numpy() == pytest.approx(expected, abs=2e-6)
    assert (label == logits.argmax(1)).all()


def test_the_onnx_file_says_what_it_holds(onnx_file: Path) -> None:
    """As any other program reads the file, with onnx and onnxruntime alone."""
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == ["NORMAL", "PNEUMONIA"]
    assert {"temperature", "threshold", "calibrated_threshold", "config", "data", "input", "sha256"} <= facts.keys()
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    assert (port.name, port.type, port.shape) == (INPUT, "tensor(uint8)", ["batch", 1, 16, 16])
    for n in (1, 3, 130):
        images = np.random.default_rng(n).integers(0, 256, (n, 1, 16, 16), dtype=np.uint8)
        logits, probabilities, label = session.run(list(OUTPUTS), {INPUT: images})
        odds = np.exp(logits.astype(float) / json.loads(facts["temperature"]))
        assert probabilities == pytest.approx(np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1), abs=1e-6)
        assert (label == (probabilities[:, 1] >= json.loads(facts["calibrated_threshold"]))).all()
