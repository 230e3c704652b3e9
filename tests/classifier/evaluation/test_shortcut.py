"""The figures of the shortcut meter, from scores: against scikit-learn and closed forms."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from classifier.evaluation.shortcut import MeterScores, resample

Array = np.ndarray
N = 400
PATIENTS = [f"p{i // 2}" for i in range(N)]


def scores(shift: float = 0.0, n: int = N, features: int = 40, apart: float = 0.0, **changes: Array) -> MeterScores:
    """Normal scores; the first trace adds ``shift`` to each, the second nothing; ``apart``: of the features."""
    rng, places = np.random.default_rng(5), np.arange(features)
    plain = rng.normal(size=n)
    of_features = rng.normal([[0.0], [apart]], 1.0, (2, features))
    values = MeterScores(
        np.arange(n),
        plain,
        np.stack([plain + shift, plain]),
        np.stack([[plain, plain], [plain, plain]]),
        places,
        of_features.ravel(),
        np.tile(places % 5, 2),
        places,
        places + features,
        rng.normal(size=2 * features),
        np.tile(places % 5, 2),
    )
    return replace(values, **changes)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 3.0])
def test_the_share_of_pairs_is_an_auroc(shift: float) -> None:
    measured = scores(shift)
    shares = resample(measured, PATIENTS, 0, 20)
    sides, values = np.repeat([0, 1], N), np.concatenate([measured.plain, measured.plain + shift])
    assert shares.traced[0][0] == pytest.approx(roc_auc_score(sides, values))
    assert shares.traced[0][0] == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.05), "normal scores, SD 1"
    for nothing in (shares.traced[1], *shares.control):
        assert nothing == pytest.approx(np.full(21, 0.5)), "on every resample: pairs of the same scores"


def test_whole_patients_are_resampled() -> None:
    """One patient with nine images in ten scatters the share more than as many patients do."""
    moved = scores(features=0, traced=np.stack([scores().plain + np.repeat([2.0, 0.0], N // 2), scores().plain]))
    several, few = (resample(moved, groups, 0, 100).traced[0][1:] for groups in (PATIENTS, [*"ab" * 10, *"c" * 380]))
    assert several.std() < few.std()


@pytest.mark.parametrize("apart", [0.0, 1.5])
def test_features_are_told_apart_within_folds(apart: float) -> None:
    measured = scores(apart=apart)
    shares = resample(measured, PATIENTS, 0, 5)
    sides = np.repeat([0, 1], 40)
    folds = [measured.fold == k for k in range(5)]
    assert shares.features is not None
    assert shares.features_control is not None
    assert shares.features[0] == pytest.approx(np.mean([roc_auc_score(sides[f], measured.features[f]) for f in folds]))
    expected = np.mean([roc_auc_score(sides[f], measured.control_features[f]) for f in folds])
    assert shares.features_control[0] == pytest.approx(expected)
    assert shares.features[0] == pytest.approx(norm.cdf(apart / 2**0.5), abs=0.12)


def test_without_features_there_are_none() -> None:
    shares = resample(scores(features=0), PATIENTS, 0, 5)
    assert shares.features is None
    assert shares.features_control is None


def test_scores_come_back_from_a_file() -> None:
    measured = scores(1.0)
    again = MeterScores.of(measured.arrays("meter3_"), "meter3_", traces=2)
    assert all(np.array_equal(a, b) for a, b in zip(vars(measured).values(), vars(again).values(), strict=True))
    assert measured.largest_position() == N - 1


DAMAGE: dict[str, Callable[[dict[str, Array]], object]] = {
    "missing": lambda arrays: arrays.pop("meter0_plain"),
    "short": lambda arrays: arrays.update(meter0_plain=arrays["meter0_plain"][1:]),
    "not a number": lambda arrays: arrays.update(meter0_traced=np.full((2, N), np.nan)),
    "another kind": lambda arrays: arrays.update(meter0_index=np.ones(N)),
    "below 0": lambda arrays: arrays.update(meter0_held_out=-np.ones(40, int)),
    "no control": lambda arrays: arrays.update(meter0_control=np.empty((2, 0, N))),
    "another number of traces": lambda arrays: arrays.update(meter0_traced=np.zeros((1, N))),
    "one number": lambda arrays: arrays.update(meter0_control=np.array(1.0)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_scores_are_refused(kind: str) -> None:
    arrays = scores().arrays("meter0_")
    DAMAGE[kind](arrays)
    with pytest.raises((KeyError, ValueError), match="meter0_"):
        MeterScores.of(arrays, "meter0_", traces=2)
