"""`classifier export --dry-run`: what would be read and written, and how long that would take."""

from __future__ import annotations

from pathlib import Path

from balancer.core import exported
from balancer.core.files import refuse_unwritable
from balancer.core.preview import Preview
from balancer.core.speed import seconds_each
from classifier.export import integers
from classifier.export.writing import CPU, open_export
from classifier.training.prediction import predict

TRIED = 64  # images, at most
BUDGET = 1.0  # seconds of trying
QUANTISED = 3  # exports that the 8-bit variants cost, calibration and their measurement aside
PASSES = 3.0  # over validation and test: float32, static and dynamic


def preview(
    model: Path, to: str, out: Path | None, int8: bool, data: str | None, force: bool, threads: int | None
) -> Preview:
    """Return what :func:`~classifier.export.writing.export` would do; only the exported file is not checked."""
    saved, path, dataset = open_export(model, to, out, int8, data, force, threads, decode=False)
    refuse_unwritable(path)
    files = [path, *(integers.files(path) if int8 else ())]
    seconds = exported.estimate_seconds(saved.model, to)
    unchecked = exported.UNCHECKED
    if dataset is not None:
        images = [dataset.images[dataset.indices(fold)] for fold in ("val", "test")]
        an_image = seconds_each(
            lambda n: predict(saved.model, images[0][:n], saved.config, CPU), min(TRIED, len(images[0])), BUDGET
        )
        timed = (integers.REPEATS + 2) * (integers.TIMED + 1)
        seconds *= 1 + QUANTISED
        seconds += an_image * (PASSES * (sum(map(len, images)) + timed) + integers.CALIBRATION)
        if dataset.undecoded:
            seconds += dataset.undecoded.seconds
            unchecked += f"; {dataset.undecoded.describe()}"
    settings = {"format": to, "network": saved.config.model, "8-bit variant": "yes" if int8 else None}
    reads = f"{model}" + (f" and {dataset.source}" if dataset is not None else "")
    return Preview(reads, ", ".join(map(str, files)), seconds, settings, unchecked)
