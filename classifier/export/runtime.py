"""Prediction with an exported ONNX file. Needs onnxruntime, and neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy

from balancer.core import onnx_file
from balancer.core.errors import UsageError
from balancer.core.pixels import planes
from balancer.core.threads import choose_threads
from classifier.export.signature import INPUT, signature
from classifier.training.record import EXPORT, ClassifierRecord, check_scores, parse_record

Array = np.ndarray
CHUNK = 128  # images per pass
REMEDY = "export again, or give the model.pt"


def open_onnx(path: Path, device: str, threads: int | None = None) -> tuple[ClassifierRecord, Callable[[Array], Array]]:
    """Open an exported classifier; return its record, and what gives its uncalibrated probabilities.

    Args:
        path: of the ONNX file.
        device: auto or cpu.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Returns:
        The record, and a function of images (n, H, W) or (n, H, W, 3) uint8 whose result is that of
        :func:`classifier.training.prediction.predict`.

    Raises:
        UsageError: another device is named.
        BalancerError: the file is missing, damaged, of another program, or onnxruntime is not installed.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device is {device!r}, but ONNX files run on the CPU here; give auto or cpu")
    session, facts = onnx_file.open_session(path, EXPORT, REMEDY, threads or choose_threads())
    record = parse_record(facts, path, REMEDY)
    onnx_file.check_signature(path, session, *signature(record), REMEDY)

    def predict(images: Array) -> Array:
        with onnx_file.running(path, REMEDY):
            logits = logits_of(session, images)
        return check_scores(scores(logits))

    return record, predict


def logits_of(session: onnx_file.Session, images: Array) -> Array:
    """Return the logits (n,) or (n, C) of images (n, H, W) or (n, H, W, 3) uint8."""
    chunks = [np.ascontiguousarray(planes(images[i : i + CHUNK])) for i in range(0, len(images), CHUNK)]
    logits: Array = np.concatenate([session.run(["logits"], {INPUT: chunk})[0] for chunk in chunks])
    return logits


def scores(logits: Array) -> Array:
    """Return the probability of the second class (n,) of logits (n,), or of each class (n, C) of (n, C), in float64."""
    logits = logits.astype(np.float64)
    shares: Array = scipy.special.expit(logits) if logits.ndim == 1 else scipy.special.softmax(logits, axis=1)
    return shares
