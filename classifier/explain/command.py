"""`classifier explain MODEL IMAGE...`: heat maps of images, and whether these maps mean something."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balancer.core.device import open_device
from balancer.core.errors import UsageError
from balancer.data.dataset import PHANTOM_NOTICE
from balancer.reporting.numbers import plural
from classifier.evaluation.thresholds import labels_of, with_temperature
from classifier.explain import checks as checking
from classifier.explain.faithfulness import FEWEST_IMAGES
from classifier.explain.folder import check_replaceable, replaced
from classifier.explain.heatmaps import HeatMaps, explain
from classifier.explain.layers import COARSE
from classifier.explain.methods import METHODS
from classifier.explain.report import write_explanation
from classifier.explain.results import PAGE, ExplainedImage, ExplainRequest, Explanation
from classifier.inference import read_images
from classifier.training.checkpoint import SavedClassifier, load_classifier
from classifier.training.prediction import predict, to_input

Array = np.ndarray


def explain_files(
    checkpoint: Path, images: Sequence[Path], explained_class: str | None, request: ExplainRequest
) -> Explanation:
    """Write the heat maps of images in files and folders, with overlays, a contact sheet and a page.

    Args:
        checkpoint: a ``model.pt``, or the folder that holds one.
        images: files and folders.
        explained_class: the class that the maps speak for; None: what the classifier calls each image.
        request: method, layer, device and where to write.

    Raises:
        UsageError: an unknown method, layer or class.
        BalancerError: a file is missing, damaged or no image, or the folder to write to holds other files.
    """
    folder = request.out or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / PAGE
    check_replaceable(folder, images)
    device = open_device(request.device, request.threads)
    saved = load_classifier(checkpoint, device)
    target = class_number(explained_class, saved)
    files, pixels = read_images(images, saved)
    labels, probabilities = called(saved, pixels)
    heat = explain(saved, pixels, request.method, labels if target is None else target, request.layer, True)
    checks = None
    if request.check and len(files) >= FEWEST_IMAGES:
        checks = checking.check(saved, to_input(pixels, saved.config, device), heat)
    classes = saved.classes
    explained = [
        ExplainedImage(
            str(file),
            classes[labels[i]],
            float(probabilities[i]),
            classes[1 if len(classes) == 2 else labels[i]],
            classes[heat.target[i]],
            bool(heat.empty[i]),
            f"maps/{name}.png",
            f"overlays/{name}.png",
        )
        for i, (file, name) in enumerate(zip(files, file_names(files), strict=True))
    ]
    notes = [*data_notes(saved), *map_notes(heat)]
    result = Explanation(
        str(checkpoint),
        saved.data_source,
        saved.threshold if len(classes) == 2 else None,
        heat.method,
        heat.layer,
        heat.cells,
        explained,
        notes,
        checks,
        folder,
    )
    with replaced(folder) as place:
        write_explanation(result, pixels, heat, place)
    return result


def class_number(name: str | None, saved: SavedClassifier) -> int | None:
    """Return the number of a class by its name.

    Raises:
        UsageError: the classifier has no such class.
    """
    classes = saved.classes
    if name is None:
        return None
    if name not in classes:
        raise UsageError(f"--class is {name!r}; this classifier tells {', '.join(classes)} apart")
    return classes.index(name)


def called(saved: SavedClassifier, pixels: Array) -> tuple[Array, Array]:
    """Return the class (N,) int64 that the classifier calls each image, and a calibrated probability (N,).

    The probability is of the positive class if there are two, else of the class that is called.
    """
    score = predict(saved.model, pixels, saved.config, next(saved.model.parameters()).device)
    calibrated = with_temperature(score, saved.temperature)
    labels = labels_of(score, saved.uncalibrated_threshold)
    return labels, calibrated if score.ndim == 1 else calibrated[np.arange(len(labels)), labels]


def file_names(files: Sequence[Path]) -> list[str]:
    """Return a name for the pictures of each file: its number and what of its own name is safe in any file system."""
    digits = max(3, len(str(len(files))))
    stems = [re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-")[:40] for file in files]
    return [f"{i:0{digits}d}_{stem}".rstrip("_") for i, stem in enumerate(stems, 1)]


def data_notes(saved: SavedClassifier) -> list[str]:
    """Return what must be said of the data that a classifier was trained on."""
    return [PHANTOM_NOTICE] if saved.trained_on_drawings else []


def map_notes(heat: HeatMaps) -> list[str]:
    """Return what must be said of maps: few cells, or no evidence."""
    notes = []
    if heat.layer is not None and min(heat.cells) < COARSE:
        notes.append(
            f"The maps of layer {heat.layer} have {heat.cells[0]} x {heat.cells[1]} cells, which say little about"
            " where; an earlier layer (`--layer`) or `--method occlusion` says more."
        )
    if blank := int(heat.empty.sum()):
        are = "is" if blank == 1 else "are"
        notes.append(
            f"{blank} of {plural(len(heat.maps), 'map')} {are} empty: {METHODS[heat.method].title} finds no evidence"
            " for the class there, only against it."
        )
    return notes
