"""What a filter chose of each synthetic set, once for a study: kept beside the trials, so that all of them agree."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.shapes import parse
from balancer.metrics.feature_choice import seconds_to_train
from balancer.reporting.numbers import plural
from classifier.analysis.results import TrialResult
from classifier.experiments.study import Study
from classifier.training import filtering
from classifier.training.filtering import Selection
from classifier.training.regimes import REGIMES

log = logging.getLogger("balancer")
FOLDER = "filter"


def with_selections(study: Study, run: Path | None) -> Study:
    """Return the study with what a filter chose of each set, and the notes on it; the study itself without a filter.

    The choice is read from the run's folder, or made and written there. Without a folder it is made.

    Raises:
        BalancerError: as :func:`~classifier.training.filtering.select`.
    """
    if not any(regime.filtered for regime in study.regimes):
        return study
    selections = tuple(_selection(study, number, run) for number in range(len(study.synthetic)))
    several = len(selections) > 1
    notes = [
        f"{f'Synthetic set {number}: ' if several else ''}{of_class.describe()}"
        for number, selection in enumerate(selections)
        for of_class in selection.classes
    ]
    return replace(study, data=replace(study.data, notes=[*study.data.notes, *notes]), selections=selections)


def estimate_seconds(study: Study) -> float:
    """Return the rough time of the filter of a study, with a feature network that is to be trained; 0 without one."""
    if not any(regime.filtered for regime in study.regimes):
        return 0.0
    classes = range(len(study.data.classes))
    seen = [
        [int((images.labels == label).sum()) if study.counts(images)[label] else 0 for label in classes]
        for images in study.synthetic
    ]
    learning = seconds_to_train(filtering.FEATURES, study.data, filtering.CPU)
    return learning + sum(filtering.estimate_seconds(study.data, of_set) for of_set in seen)


def check_selections(study: Study, trials: Iterable[TrialResult], where: str) -> None:
    """Refuse finished trials of a filter that kept other images; ``where`` is their file, for the message.

    Raises:
        BalancerError: the images differ.
    """
    for trial in trials:
        if not REGIMES[trial.regime].filtered or trial.synthetic_set is None:
            continue
        digest = study.filtered(int(trial.synthetic_set)).digest
        if trial.synthetic_hash != digest:
            raise BalancerError(
                f"{where} holds trials of {trial.regime} on images {trial.synthetic_hash}, the filter now keeps"
                f" {digest}; bring back the folder {FOLDER} of the run, or start a new run"
            )


def _selection(study: Study, number: int, run: Path | None) -> Selection:
    """Return what the filter chose of a set, from its record if there is a sound one."""
    images = study.synthetic[number]
    counts, seed = study.counts(images), study.config.seed
    record = None if run is None else run / FOLDER / f"set-{number}.json"
    if record is not None and record.exists():
        try:
            selection = parse(Selection, read_json(record), record)
        except DamagedFile as error:
            log.warning("%s; the filter chooses again", error)
        else:
            if selection.fits(study.data, images, counts, seed):
                return selection
            log.warning("%s is of other images, counts or another seed; the filter chooses again", record)
    log.info("filtering %s of synthetic set %d", plural(len(images.labels), "image"), number)
    selection = filtering.select(study.data, images, counts, seed)
    if record is not None:
        record.parent.mkdir(exist_ok=True)
        write_json(record, selection.to_json())
    return selection
