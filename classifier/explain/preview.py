"""`classifier explain --dry-run`: what would be read and written, and how long that would take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balancer.core.device import open_device
from balancer.core.errors import lookup
from balancer.core.files import refuse_unwritable
from balancer.core.preview import Preview
from balancer.core.speed import seconds_each, slowness
from balancer.reporting.numbers import plural
from classifier.explain.command import class_number
from classifier.explain.faithfulness import CHECKED, DRAWS, FEWEST_IMAGES, OTHER_MAPS, RANDOM_MAPS, STEPS
from classifier.explain.folder import check_replaceable
from classifier.explain.heatmaps import HeatMaps, explain
from classifier.explain.methods import METHODS
from classifier.explain.regimes import pairs_to_compare, read_study
from classifier.explain.results import PAGE, ExplainRequest
from classifier.explain.run_command import EXAMPLES
from classifier.inference import named_files, read_images
from classifier.training.checkpoint import SavedClassifier, load_classifier
from classifier.training.prediction import predict

Array = np.ndarray
TRIED, BUDGET = 16, 1.0  # images, and seconds of each kind of trying
# Seconds on one core of the reference machine: the page with its figures, the pictures of an image, and the comparison
# of two maps of 64 px.
A_PAGE, A_PICTURE, A_COMPARISON = 2.5, 0.03, 0.0015


def preview_files(
    checkpoint: Path, images: Sequence[Path], explained_class: str | None, request: ExplainRequest
) -> Preview:
    """Return what :func:`~classifier.explain.command.explain_files` would do; a few images are explained."""
    folder = request.out or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / PAGE
    check_replaceable(folder, images)
    refuse_unwritable(folder)
    device = open_device(request.device, request.threads)
    saved = load_classifier(checkpoint, device)
    class_number(explained_class, saved)
    files = [file for path in images for file in named_files(path)]
    some = [path for path in images if not path.is_dir()][:TRIED] or files[:TRIED]
    begin = time.perf_counter()
    pixels = read_images(some, saved)[1]
    reading = (time.perf_counter() - begin) / len(some)
    speed = _Speed(saved, pixels, request)
    seconds = (reading + speed.a_map + speed.an_image + A_PICTURE * slowness()) * len(files)
    seconds += speed.checks(len(files)) + A_PAGE * slowness()
    left = len(files) - len(some)
    settings = {**_settings(speed.heat, request), "class": explained_class or "the one that is called"}
    unchecked = f"the pixels of {plural(left, 'image')}" if left else ""
    return Preview(f"{checkpoint} and {plural(len(files), 'image')}", str(folder), seconds, settings, unchecked)


def preview_run(run: Path, regimes: Sequence[str], request: ExplainRequest) -> Preview:
    """Return what :func:`~classifier.explain.run_command.explain_run` would do; a few images are explained."""
    folder = request.out or run / PAGE
    lookup(METHODS, request.method, "--method")
    device = open_device(request.device, request.threads)
    study = read_study(run, regimes, decode=False)
    check_replaceable(folder)
    refuse_unwritable(folder)
    trials = [trial for of_regime in study.trials.values() for trial in of_regime]
    models = [study.model(trial, device) for trial in trials]  # all are read: a damaged one would stop the run
    speed = _Speed(models[0], study.data.images[study.test[:TRIED]], request)
    compared = {name for pair in pairs_to_compare(study.trials) for name in pair}
    maps = sum(len(study.trials[name]) for name in compared) * min(len(study.test), METHODS[request.method].compared)
    examples = 2 * EXAMPLES * len(study.data.classes)
    a_view = (speed.a_map + A_PICTURE * slowness()) * examples + speed.checks(len(study.test))
    if request.check:
        a_view += speed.a_map * min(len(study.test), CHECKED)
    seconds = speed.a_map * maps + a_view * len(study.trials) + A_PAGE * slowness()
    left = study.data.undecoded
    settings = {**_settings(speed.heat, request), "regimes": ", ".join(study.trials)}
    reads = f"{plural(len(trials), 'model')} of {run} and {study.data.source}"
    total = seconds + (left.seconds if left else 0)
    return Preview(reads, str(folder), total, settings, left.describe() if left else "")


class _Speed:
    """How long a classifier takes, from a few of its images (n, size, size) uint8."""

    def __init__(self, saved: SavedClassifier, pixels: Array, request: ExplainRequest) -> None:
        """Try the method once, which also checks method and layer, then ever more images."""
        device = next(saved.model.parameters()).device
        self.request, self.side = request, pixels.shape[1]
        self.heat = explain(saved, pixels[:1], request.method, None, request.layer)

        def explained(n: int) -> None:
            explain(saved, pixels[:n], request.method, None, request.layer)

        self.a_map = seconds_each(explained, len(pixels), BUDGET)
        self.an_image = seconds_each(lambda n: predict(saved.model, pixels[:n], saved.config, device), TRIED, BUDGET)

    def checks(self, n: int) -> float:
        """Return the seconds of both checks of the maps of n images."""
        if not self.request.check or n < FEWEST_IMAGES:
            return 0.0
        method = METHODS[self.request.method]
        curves = min(n, CHECKED) * 2 * (1 + RANDOM_MAPS + OTHER_MAPS) * (STEPS - 1)
        cascade = min(n, method.cascaded) * method.stages * DRAWS
        compared = A_COMPARISON * (self.side / 64) ** 2 * slowness()
        return self.an_image * curves + (self.a_map + compared) * cascade


def _settings(heat: HeatMaps, request: ExplainRequest) -> dict[str, str | None]:
    return {
        "method": request.method,
        "layer": heat.layer and f"{heat.layer} ({heat.cells[0]} x {heat.cells[1]} cells)",
        "checks of the maps": "yes" if request.check else "no",
    }
