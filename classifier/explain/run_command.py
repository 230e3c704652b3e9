"""`classifier explain RUN`: examples, checks and comparisons of the classifiers of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from balancer.core.device import open_device
from balancer.core.errors import lookup
from balancer.core.progress import bar
from balancer.core.sealed import write_json
from balancer.data.records import count_units
from balancer.data.sampling import evenly
from balancer.reporting.pages import write_document
from classifier.analysis.results import TrialResult
from classifier.explain import checks as checking
from classifier.explain import run_report
from classifier.explain.command import map_notes
from classifier.explain.faithfulness import CHECKED, FEWEST_IMAGES
from classifier.explain.folder import CONTENT, check_replaceable, replaced
from classifier.explain.heatmaps import explain
from classifier.explain.methods import METHODS
from classifier.explain.regimes import SavedStudy, compare, pairs_to_compare, read_study
from classifier.explain.results import PAGE, Example, ExplainRequest, RegimeView, RunExplanation, StudyMaps
from classifier.training.prediction import to_input

Array = np.ndarray
EXAMPLES = 4  # right and as many wrong, for each class of each regime


def explain_run(run: Path, regimes: Sequence[str], request: ExplainRequest) -> RunExplanation:
    """Compare where the classifiers of a finished ablation look; write a page, pictures and explain.json.

    Args:
        run: the folder of a `classifier ablate` or `classifier train`.
        regimes: names or groups of regimes; if empty, those of the 2 x 2 design.
        request: method, layer, device and where to write; by default ``explain`` in the run.

    Raises:
        UsageError: an unknown method, layer or regime.
        BalancerError: no finished run, no saved models, no data, or the folder to write to holds other files.
    """
    folder = request.out or run / PAGE
    lookup(METHODS, request.method, "--method")
    device = open_device(request.device, request.threads)
    study = read_study(run, regimes)
    check_replaceable(folder)
    views = [_view(study, name, request, device) for name in study.trials]
    maps = _maps_of_all(study, request, device)
    groups = [study.patients[i] for i in maps.positions]
    compared = (compare(name, reference, maps.by_regime, groups) for name, reference in pairs_to_compare(study.trials))
    heat = views[0].heat
    result = RunExplanation(
        str(run),
        study.data.source,
        f"{study.data.source}; test n = {count_units([study.patients[i] for i in study.test])}",
        heat.method,
        heat.layer,
        heat.cells,
        [comparison for comparison in compared if comparison is not None],
        views,
        [*study.notes, *map_notes(heat)],
        folder,
    )
    page, pictures = run_report.document(result, study.data, maps)
    with replaced(folder) as place:
        write_document(page, place, PAGE, pictures, "pictures")
        write_json(place / CONTENT, result.content())
    return result


def _maps_of_all(study: SavedStudy, request: ExplainRequest, device: torch.device) -> StudyMaps:
    """Return the maps of test images, evenly spread, for their true class, by every trial that can be compared."""
    positions = study.test[evenly(len(study.test), METHODS[request.method].compared)]
    pixels, labels = study.data.images[positions], study.data.labels[positions]
    names = {name for pair in pairs_to_compare(study.trials) for name in pair}
    maps: dict[str, dict[int, Array]] = {name: {} for name in study.trials if name in names}
    with bar(sum(len(study.trials[name]) for name in maps), "maps of every trial", "trial") as progress:
        for name, of_regime in maps.items():
            for trial in study.trials[name]:
                saved = study.model(trial, device)
                of_regime[trial.trial_seed] = explain(saved, pixels, request.method, labels, request.layer).maps
                progress.update()
    return StudyMaps(positions, maps)


def _view(study: SavedStudy, regime: str, request: ExplainRequest, device: torch.device) -> RegimeView:
    """Return examples of the first trial of a regime with their maps, and the checks of its maps."""
    trial = study.trials[regime][0]
    saved, examples = study.model(trial, device), choose_examples(study, trial)
    classes = study.data.classes
    pixels = study.data.images[[example.position for example in examples]]
    target = [classes.index(example.called) for example in examples]
    heat = explain(saved, pixels, request.method, target, request.layer, True)
    checks = None
    if request.check and len(study.test) >= FEWEST_IMAGES:
        index = evenly(len(study.test), CHECKED)
        images = study.data.images[study.test[index]]
        every = explain(saved, images, request.method, None, request.layer, True)
        groups = [study.patients[i] for i in study.test[index]]
        checks = checking.check(saved, to_input(images, saved.config, device), every, groups)
    return RegimeView(regime, trial.trial_seed, examples, heat, checks)


def choose_examples(study: SavedStudy, trial: TrialResult) -> list[Example]:
    """Return test images of each class: the most confident mistakes, then right calls, evenly spread."""
    predicted, classes = trial.predictions["test"], study.data.classes
    calibrated = predicted.calibrated
    several = calibrated.ndim == 2
    calls = calibrated.argmax(axis=1) if several else predicted.decisions.astype(np.int64)
    of_call = calibrated.max(axis=1) if several else np.where(calls == 1, calibrated, 1 - calibrated)
    shown = of_call if several else calibrated
    examples = []
    for label in range(len(classes)):
        wrong = np.flatnonzero((predicted.y_true == label) & (calls != label))
        right = np.flatnonzero((predicted.y_true == label) & (calls == label))
        wrong = wrong[np.argsort(-of_call[wrong], kind="stable")][:EXAMPLES]
        right = right[evenly(len(right), EXAMPLES)]
        for i in (*wrong, *right):
            position = int(predicted.index[i])
            name = study.data.records[position].name
            examples.append(Example(name, classes[label], classes[calls[i]], float(shown[i]), position))
    return examples
