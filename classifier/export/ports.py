"""The inputs and outputs of an exported classifier."""

from __future__ import annotations

from balancer.core.onnx_file import Port
from classifier.training.record import ClassifierRecord

INPUT = "image"
OUTPUTS = ("logits", "probabilities", "label")


def ports(record: ClassifierRecord) -> tuple[list[Port], list[Port]]:
    """Return the inputs and the outputs of a classifier's graph: their names, kinds and shapes."""
    side, classes = record.config.data.image_size, len(record.classes)
    shapes = {"logits": () if classes == 2 else (classes,), "probabilities": (classes,), "label": ()}
    outputs = [Port(name, "int64" if name == "label" else "float", shapes[name]) for name in OUTPUTS]
    return [Port(INPUT, "uint8", (1, side, side))], outputs
