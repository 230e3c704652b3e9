"""A classifier as one graph: from grey levels to calibrated probabilities and a label."""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from balancer.core.onnx_file import traced
from classifier.evaluation.thresholds import MIN_PROBABILITY
from classifier.training.checkpoint import SavedClassifier
from classifier.training.prediction import normalise

HIGHEST = float(np.finfo(np.float32).max)  # as a logit: infinity in float32 stays a number


class ClassifierGraph(nn.Module):
    """A classifier with all that stands around its network: normalisation, temperature and threshold.

    The input is ``image``, levels (B, 1 or 3, H, W) uint8. The outputs for C classes are

    - ``logits`` (B,) of two classes, positive for the second, else (B, C): the network's own, without the temperature;
    - ``probabilities`` (B, C), calibrated;
    - ``label`` (B,) int64: the class by the threshold, or the most likely of more than two.

    The numbers are those of :func:`classifier.evaluation.thresholds.with_temperature` and
    :func:`~classifier.evaluation.thresholds.decide`, in float32.
    """

    def __init__(self, saved: SavedClassifier) -> None:
        super().__init__()
        self.network, self.normalisation = saved.model, saved.config.input_normalisation
        self.temperature, self.binary = saved.temperature, len(saved.classes) == 2
        chosen = saved.uncalibrated_threshold
        # Above 1 nothing is called positive, and at 0 everything. From the last number below 1 on, sigmoid gives 1.
        below_one = min(chosen, np.nextafter(1, 0))
        self.least = HIGHEST if chosen > 1 else max(float(scipy.special.logit(below_one)), -HIGHEST)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, probabilities and labels."""
        logits: Tensor = self.network(normalise(image.float(), self.normalisation))
        if self.binary:
            bound = float(scipy.special.logit(1 - MIN_PROBABILITY))
            positive = torch.sigmoid(logits.clamp(-bound, bound) / self.temperature)
            return logits, torch.stack([1 - positive, positive], dim=1), (logits >= self.least).long()
        shares = torch.log_softmax(logits, dim=1).clamp(min=float(np.log(MIN_PROBABILITY)))
        return logits, torch.softmax(shares / self.temperature, dim=1), logits.argmax(dim=1)


def to_program(saved: SavedClassifier) -> ExportedProgram:
    """Return the graph as a program for any number of images."""
    side = saved.config.data.image_size
    example = torch.zeros(2, saved.channels, side, side, dtype=torch.uint8)
    return traced(ClassifierGraph(saved), example, saved.config.model)
