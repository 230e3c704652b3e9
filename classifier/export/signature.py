"""The signature of an exported classifier: its inputs and outputs."""

from __future__ import annotations

from balancer.core.onnx_file import TensorSpec
from classifier.training.record import ClassifierRecord

INPUT = "image"
OUTPUTS = ("logits", "probabilities", "label")


def signature(record: ClassifierRecord) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the inputs and the outputs of a classifier's graph: their names, kinds and shapes."""
    side, classes = record.config.data.image_size, len(record.classes)
    shapes = {"logits": () if classes == 2 else (classes,), "probabilities": (classes,), "label": ()}
    outputs = [TensorSpec(name, "int64" if name == "label" else "float", shapes[name]) for name in OUTPUTS]
    return [TensorSpec(INPUT, "uint8", (record.channels, side, side))], outputs
