"""The shortcut meter of studies that nobody ran: scores that a trace moves by as much as a test says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from balancer.metrics.traces import TRACES
from classifier.analysis import shortcuts
from classifier.analysis.results import StudyResults, TrialPredictions
from classifier.evaluation.shortcut import MeterScores
from classifier.training.metering import HALVINGS

CONTROLS = 2 * HALVINGS
NOISE = 0.02  # SD by image and by trial, of scores whose own SD is 1


def fake_scores(val: TrialPredictions, label: int, shift: float, seed: int) -> MeterScores:
    """Normal scores, which the first trace moves by ``shift`` and no control does; features know nothing."""
    rng = np.random.default_rng(seed)
    others, of_class = val.index[val.y_true != label], val.index[val.y_true == label]
    plain, fold = rng.normal(size=len(others)), np.tile(np.arange(len(of_class)) % 5, 2)
    traces, n = len(TRACES), len(others)
    noise = NOISE * (rng.normal(size=(3, traces, n)) + rng.normal(size=(3, traces, 1)))
    moved = np.array([shift, *[0.0] * (traces - 1)])[:, None]
    features = rng.normal(size=(2, 2 * len(of_class)))
    more = NOISE * (rng.normal(size=(CONTROLS - 2, traces, n)) + rng.normal(size=(CONTROLS - 2, traces, 1)))
    return MeterScores(
        others,
        plain,
        plain + moved + noise[0],
        plain + np.stack([*noise[1:], *more], axis=1),
        of_class,
        features[0],
        fold,
        of_class,
        of_class,
        features[1],
        fold,
    )


def with_meter(study: StudyResults, shifts: Mapping[str, float], classes: Sequence[str] = ("NORMAL",)) -> StudyResults:
    """Return a study whose classifiers move by so much, by regime, when an image gets the trace of the first class."""
    trials, patients = [], study.patients
    sets = study.sets(*study.arms) or ["0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortcuts, "FEWER_RESAMPLES", 10)  # of the intervals of single trials
        for i, trial in enumerate(study.trials):
            pairs = []
            for name in [trial.synthetic_set] if trial.synthetic_set else sets:
                for k, class_name in enumerate(classes):
                    shift = shifts[trial.regime] if k == 0 else 0.0
                    scores = fake_scores(trial.predictions["val"], k, shift, 1000 * i + 10 * int(name) + k)
                    trained_on = trial.synthetic_set is not None
                    pairs.append((shortcuts.reading_of(scores, name, class_name, trained_on, patients, 0), scores))
            meter, meter_scores = zip(*pairs, strict=True)
            trials.append(replace(trial, meter=meter, meter_scores=meter_scores))
    return replace(StudyResults.of(trials, patients), source=study.source, notes=study.notes)
