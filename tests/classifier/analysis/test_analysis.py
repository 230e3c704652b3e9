"""From trials to verdicts: metrics recomputed from the predictions, families, sentences; and simulated studies."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_study import fake_study, fake_trial
from scipy import stats
from sklearn.metrics import roc_auc_score

from balancer.core.errors import BalancerError
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import patient_weights
from classifier.analysis import image_tests, statistics, verdicts
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.contrasts import POOLED, POOLS, Contrast, ContrastResult, pool_of
from classifier.analysis.results import StudyResults, TrialPredictions
from classifier.analysis.statistics import Estimate
from classifier.report.tables import COLUMNS
from classifier.training.regimes import REGIMES

REPOSITORY = Path(__file__).resolve().parents[3]
Array = np.ndarray
SEPARATIONS = {"baseline": 1.5, "augment": 2.0, "gan": 1.6, "combined": 1.9}
EIGHT = SEPARATIONS | {"duplicate": 1.5, "duplicate_augment": 2.0, "weighted": 1.4, "weighted_augment": 2.0}
N_VAL, N_TEST = 60, 90
LABELS = np.r_[np.arange(N_VAL) % 2, np.arange(N_TEST) % 3 > 0].astype(int)
FOLDS = np.repeat(["val", "test"], [N_VAL, N_TEST])
Y_TRUE = LABELS[N_VAL:]
# 15 patients of each class in test, with two or four images.
PATIENTS = [f"val {i}" for i in range(N_VAL)] + [f"{y} {i // 6}" for i, y in enumerate(Y_TRUE)]


def study(separations: Mapping[str, float], seeds: int = 3, sets: int = 1) -> StudyResults:
    return fake_study(separations, seeds, sets, LABELS, FOLDS, PATIENTS, noise=0.4)


def analysed(results: StudyResults, seed: int = 0) -> Analysis:
    return analyse(results, 150, seed)


def of(results: StudyResults, regime: str, seed: int) -> list[TrialPredictions]:
    return [t.predictions["test"] for t in results.arms[regime] if t.trial_seed == seed]


def auroc(predictions: TrialPredictions) -> float:
    return float(roc_auc_score(predictions.y_true, predictions.y_score))


@pytest.fixture(scope="module")
def eight() -> tuple[StudyResults, Analysis]:
    results = study({**EIGHT, "gan@0.5": 1.55, "baseline_again": 1.5, "flipped": 0.3}, seeds=4, sets=3)
    return results, analysed(results)


def by_name(analysis: Analysis) -> dict[str, ContrastResult]:
    return {c.name: c for c in analysis.contrasts}


def test_estimates_are_paired_means_over_seeds_and_sets(eight: tuple[StudyResults, Analysis]) -> None:
    results, analysis = eight
    for name in ("gan - baseline", "combined - duplicate_augment", "duplicate - baseline", "combined - augment"):
        left, right = name.split(" - ")
        expected = [
            np.mean([auroc(p) for p in of(results, left, k)]) - auroc(of(results, right, k)[0]) for k in range(4)
        ]
        result = by_name(analysis)[name]
        e = result.estimate
        assert e.value == pytest.approx(np.mean(expected))
        assert e.seed_sd == pytest.approx(np.std(expected, ddof=1))
        assert e.low < e.value < e.high
        assert result.contrast.coefficients == {left: 1, right: -1}
        assert (e.n_trial_seeds, result.gan_seeds) == (4, 0 if name == "duplicate - baseline" else 3)


def test_the_two_by_two_design(eight: tuple[StudyResults, Analysis]) -> None:
    _, analysis = eight
    c = {name: result.estimate.value for name, result in by_name(analysis).items()}
    without, within = c["gan - baseline"], c["combined - augment"]
    assert c["main effect of synthetic images"] == pytest.approx((without + within) / 2)
    assert c["interaction"] == pytest.approx(within - without)
    assert c["main effect of augmentation"] == pytest.approx(c["combined - baseline"] - (without + within) / 2)
    assert by_name(analysis)["interaction"].contrast.left is None
    assert by_name(analysis)["interaction"].delong is None


def test_families(eight: tuple[StudyResults, Analysis]) -> None:
    families: dict[str, list[str]] = {}
    for c in eight[1].contrasts:
        families.setdefault(c.contrast.family, []).append(c.name)
    assert families == {
        "confirmatory": ["gan - baseline", "combined - augment", "gan - duplicate", "combined - duplicate_augment"],
        "factorial": ["main effect of synthetic images", "main effect of augmentation", "interaction"],
        "exploratory": [
            "augment - baseline",
            "combined - baseline",
            "duplicate - baseline",
            "duplicate_augment - augment",
            "weighted - baseline",
            "weighted_augment - augment",
            "gan - weighted",
            "combined - weighted_augment",
        ],
        "check": ["baseline_again - baseline", "flipped - baseline"],
        "dose": ["gan@0.5 - baseline"],
    }


def estimated(
    results: StudyResults, name: str, resamples: int = 150, pool: tuple[str, ...] = POOLED, gan_df: int = 2
) -> Estimate:
    """A contrast put together by hand from the predictions."""
    weights = patient_weights(Y_TRUE, PATIENTS[N_VAL:], resamples, 0)
    seeds = sorted({t.trial_seed for t in results.trials})
    left, right = (
        np.array([[weighted_auroc(p.y_true, p.y_score, weights) for p in of(results, arm, k)] for k in seeds])
        for arm in name.split(" - ")
    )
    seen, by_set = scatter_by_hand(results, seeds, weights, pool)
    synthetic = sum(REGIMES[arm].synthetic for arm in name.split(" - "))
    scatter = statistics.SeedScatter(2 * seen, 4, synthetic * by_set, gan_df if len(results.sets("gan")) == 3 else 0)
    return statistics.crossed_estimate(np.moveaxis(left - right, -1, 0), 15, scatter)


def scatter_by_hand(
    results: StudyResults, seeds: list[int], weights: Array, pool: tuple[str, ...]
) -> tuple[float, float]:
    """The variances of one trial seed and of one GAN seed, pooled over the regimes of a pool, less the patients'."""
    by_seed, by_set = [], []
    for arm in (arm for arm in results.regimes if arm in pool):
        cells = np.array([[weighted_auroc(p.y_true, p.y_score, weights) for p in of(results, arm, k)] for k in seeds])
        by_seed.append(cells.mean(axis=1))
        if REGIMES[arm].synthetic:
            by_set.append(cells.mean(axis=0).var(axis=0, ddof=1) if cells.shape[1] > 2 else np.zeros(len(weights)))
        if REGIMES[arm].synthetic and cells.shape[1] > 2:
            around = cells.mean(axis=0) - cells.mean(axis=0)[:, 1:].mean(axis=1, keepdims=True)
            by_set[-1][1:] = around[:, 1:].var(axis=0, ddof=1)
    table = np.array(by_seed)  # regimes, seeds, 1 + resamples
    table[..., 1:] -= table[..., 1:].mean(axis=-1, keepdims=True)
    centred = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    squares = (centred**2).sum(axis=(0, 1)) / ((len(table) - 1) * (len(seeds) - 1))
    rescale = (len(weights) - 1) / (len(weights) - 2)
    seen, sets = (v[0] - rescale * v[1:].mean() for v in (squares, np.mean(by_set, axis=0)))
    return float(seen), float(sets)


def test_regimes_against_the_shortcut_have_a_pool_of_their_own() -> None:
    """With it the confirmatory contrasts stay as they are; other regimes have none."""
    more = SEPARATIONS | {"gan_pretrain": 1.7, "gan_mixup": 1.5, "undersample": 1.4}
    results = study(more, sets=3)
    found = {c.name: c for c in analysed(results).contrasts}
    names = [name for name, c in found.items() if c.contrast.family == "shortcut"]
    assert names == [f"{way} - {other}" for way in ("gan_pretrain", "gan_mixup") for other in ("gan", "baseline")]
    by_hand = [estimated(results, name, pool=POOLS[1], gan_df=4) for name in names]
    assert [found[name].estimate.se for name in names] == pytest.approx([e.se for e in by_hand])
    assert [found[name].p_holm for name in names] == pytest.approx(statistics.holm([e.p for e in by_hand]))
    assert found["gan - baseline"].p == pytest.approx(estimated(results, "gan - baseline").p)
    assert pool_of({"undersample": 1.0, "baseline": -1.0}) == pool_of({"gan": 1.0}) == ()


def test_holm_is_over_the_confirmatory_family_that_is_there(eight: tuple[StudyResults, Analysis]) -> None:
    four = study(SEPARATIONS)
    for results, analysis, size in ((*eight, 4), (four, analysed(four), 2)):
        family = [c for c in analysis.contrasts if c.contrast.is_confirmatory]
        estimates = [estimated(results, c.name) for c in family]
        assert len(family) == size
        assert [c.p_holm for c in family] == pytest.approx(statistics.holm([e.p for e in estimates]))
        assert [c.mde for c in family] == pytest.approx([statistics.detectable_effect(e, size) for e in estimates])
        for c in analysis.contrasts:
            e = c.estimate
            assert c.p == pytest.approx(sum(s * 2 * stats.t.sf(abs(e.value / e.se), df) for s, df in e.shares))
            if not c.contrast.is_confirmatory:
                assert c.p_holm is None
                assert c.mde is not None
                critical = (e.high - e.value) / e.se
                assert stats.nct.sf(critical, e.df, c.mde / e.se) == pytest.approx(0.8)
        assert analysis.headline == [verdicts.sentence(c) for c in family]


def test_metrics_of_a_regime(eight: tuple[StudyResults, Analysis]) -> None:
    """Means over all trials of each trial's metric; the interval inside what is possible."""
    results, analysis = eight
    for regime in analysis.regimes:
        trials = results.arms[regime.regime]
        sets = 3 if REGIMES[regime.regime].synthetic else 0
        assert (regime.trials, regime.trial_seeds, regime.gan_seeds) == (len(trials), 4, sets)
        for key, column in COLUMNS.items():
            if column.path.startswith("test.") and key != "threshold":  # chosen on validation: no metric
                m = regime.metrics[key]
                assert m.interval is not None
                assert m.mean == pytest.approx(np.mean([t.metric(column.path) for t in trials])), key
                assert 0 <= m.interval[0] <= m.mean <= m.interval[1], key
                assert m.interval[1] <= 1 or key == "nll"
    assert [r.regime for r in analysis.regimes][:3] == ["baseline", "augment", "gan"]


def test_counts_of_the_study(eight: tuple[StudyResults, Analysis]) -> None:
    _, a = eight
    assert (a.n_test, a.n_patients, a.gan_seeds, a.trial_seeds) == (90, 30, 3, [0, 1, 2, 3])
    assert a.test_counts == {"NORMAL": 30, "PNEUMONIA": 60}
    assert (a.confidence, a.margin, a.resamples) == (0.95, 0.01, 150)
    assert not any("left out" in note or "synthetic set" in note for note in a.notes)


def test_no_number_of_patients_where_none_is_known() -> None:
    unnamed = fake_study(["baseline"], seeds=1, patients=[f"image-test-{i}" for i in range(len(LABELS))])
    result = analysed(unnamed)
    assert (result.unit, result.n_patients, result.to_json()["n_patients"]) == ("image", None, None)


def test_the_same_each_time_and_ready_for_json(eight: tuple[StudyResults, Analysis]) -> None:
    results, analysis = eight
    text = json.dumps(analysis.to_json(), allow_nan=False)
    assert text == json.dumps(analysed(results).to_json(), allow_nan=False)
    assert text != json.dumps(analysed(results, seed=1).to_json(), allow_nan=False)


def test_the_references_are_of_averaged_scores_and_majority_decisions(eight: tuple[StudyResults, Analysis]) -> None:
    results, analysis = eight
    scores, right = [], []
    for regime in ("combined", "augment"):
        of_regime = [p for k in range(4) for p in of(results, regime, k)]
        scores.append(np.mean([p.y_score for p in of_regime], axis=0))
        votes = np.mean([p.y_score >= p.threshold for p in of_regime], axis=0)
        right.append((votes >= 0.5) == Y_TRUE)
    c = by_name(analysis)["combined - augment"]
    assert c.delong == pytest.approx(image_tests.delong(Y_TRUE, *scores))
    assert c.mcnemar is not None
    assert c.mcnemar[:2] == (np.sum(right[0] & ~right[1]), np.sum(right[1] & ~right[0]))


def test_a_dose_is_read_against_no_images_and_kept_out_of_the_rest(eight: tuple[StudyResults, Analysis]) -> None:
    results, analysis = eight
    c = by_name(analysis)["gan@0.5 - baseline"]
    half, baseline = (np.mean([t.metric("test.auroc") for t in results.arms[arm]]) for arm in ("gan@0.5", "baseline"))
    assert c.estimate.value == pytest.approx(half - baseline)
    assert c.contrast == Contrast("gan@0.5 - baseline", "dose", {"gan@0.5": 1, "baseline": -1}, "gan", "baseline", 0.5)
    assert [r.regime for r in analysis.regimes] == results.main.regimes
    assert "gan@0.5" not in results.main.arms


def test_only_complete_seeds_count() -> None:
    results = study(SEPARATIONS, seeds=4, sets=3)
    missing = {("baseline", 1, None), ("combined", 3, "2")}
    analysis = analysed(StudyResults.of([t for t in results.trials if t.key[:3] not in missing], PATIENTS))
    c = {name: result.estimate.n_trial_seeds for name, result in by_name(analysis).items()}
    assert (c["gan - baseline"], c["combined - augment"], c["interaction"]) == (3, 3, 2)
    assert {r.regime: (r.trials, r.trial_seeds) for r in analysis.regimes}["combined"] == (11, 3)
    assert any(note.startswith("2 trials left out") for note in analysis.notes)


def test_identical_predictions_differ_by_nothing() -> None:
    results = study(SEPARATIONS)
    same = {t.trial_seed: t.predictions for t in results.arms["baseline"]}
    copies = StudyResults.of([replace(t, predictions=same[t.trial_seed]) for t in results.trials], PATIENTS)
    for c in analysed(copies).contrasts:
        e = c.estimate
        assert (e.value, e.se, c.p, c.mde) == (0, 0, 1, None)
        # 15 patients without an exception leave room for more than the margin.
        assert e.high == -e.low == pytest.approx((1 - 0.025 ** (1 / 15)) * (2 if c.name == "interaction" else 1))
        assert c.verdict == "not settled"
        assert "the trials show no scatter" in verdicts.sentence(c)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_by_the_trials_folder(score: float) -> None:
    first, *others = study({"baseline": 1.0, "gan": 1.2}).trials
    test = first.predictions["test"]
    broken = replace(test, y_score=np.append(test.y_score[:-1], score))
    trials = [replace(first, predictions={**first.predictions, "test": broken}), *others]
    with pytest.raises(BalancerError, match=rf"{first.folder}: .*not finite"):
        analysed(StudyResults.of(trials, PATIENTS))


def test_perfect_classifiers_settle_no_more_than_their_patients_do() -> None:
    """An AUROC of 1 under every seed has no scatter; "no benefit" would take many more patients."""
    for c in analysed(study({"baseline": 90, "augment": 90, "gan": 90, "combined": 90})).contrasts:
        assert (c.estimate.value, c.verdict) == (pytest.approx(0), "not settled")
        assert c.estimate.low < -0.01 < 0.01 < c.estimate.high


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_verdict_takes_three_trial_seeds(seeds: int) -> None:
    analysis = analysed(study({"baseline": 0.5, "gan": 5, "flipped": 0.3}, seeds=seeds, sets=3))
    tested = seeds >= 3
    for c in analysis.contrasts:
        assert [value is None for value in (c.p, c.mde)] == [not tested] * 2
        assert (c.p_holm is not None) == (tested and c.contrast.is_confirmatory)
        assert tested or c.verdict == "not settled"
        assert ("exploratory: 2 trial seeds, a verdict takes 3" in verdicts.sentence(c)) == (seeds == 2)
        assert -1 <= c.estimate.low <= c.estimate.high <= 1
    assert ("a verdict takes 3" in analysis.verdict) == (not tested)
    assert any("a verdict takes 3" in note for note in analysis.notes) == (seeds == 2)


def test_a_pool_takes_neither_checks_nor_controls() -> None:
    """What is exploratory, or wrong on purpose, changes no figure of the confirmatory contrasts."""
    four = study(SEPARATIONS)
    more = study(SEPARATIONS | {"weighted": 0.3, "flipped": 0.2})
    kept = {arm: more.arms[arm] if arm in ("weighted", "flipped") else four.arms[arm] for arm in more.arms}
    mixed = StudyResults(kept, PATIENTS)
    one, other = by_name(analysed(four)), by_name(analysed(mixed))
    assert one["gan - baseline"].estimate == other["gan - baseline"].estimate
    weights = patient_weights(Y_TRUE, PATIENTS[N_VAL:], 150, 0)
    for name in ("flipped - baseline", "weighted - baseline"):
        left, right = (
            np.array([[weighted_auroc(p.y_true, p.y_score, weights) for p in of(mixed, arm, k)] for k in range(3)])
            for arm in name.split(" - ")
        )
        alone = statistics.crossed_estimate(np.moveaxis(left - right, -1, 0), 15, limit=1.0)
        assert other[name].estimate == alone


def test_a_great_effect_is_found_and_said() -> None:
    analysis = analysed(study({"baseline": 0.5, "augment": 0.5, "gan": 5, "combined": 5, "duplicate": 0.5}, sets=3))
    names = ("gan - baseline", "combined - augment", "gan - duplicate")
    assert [by_name(analysis)[n].verdict for n in names] == ["helps"] * 3
    assert analysis.headline[0].endswith(": helps")
    assert analysis.verdict.startswith("Yes. GAN balancing helped without augmentation")
    assert "more than as many copies of real images without augmentation" in analysis.verdict
    assert "not compared with as many copies of real images with augmentation" in analysis.verdict


def test_a_difference_that_holm_does_not_find_is_not_claimed() -> None:
    c = by_name(analysed(study({**SEPARATIONS, "gan": 1.95, "combined": 2.0, "duplicate": 1.5}, seeds=4, sets=3)))
    result = c["gan - baseline"]
    assert result.p is not None
    assert result.p_holm is not None
    assert result.p < 0.05 < result.p_holm
    assert result.estimate.low > 0
    assert result.verdict == "not settled"


def test_one_synthetic_set_is_not_the_gan() -> None:
    analysis = analysed(study({"baseline": 0.5, "gan": 5}, sets=1))
    assert analysis.headline[0].endswith("helps (for this synthetic set)")
    assert analysis.verdict.startswith("Yes. This synthetic set helped")
    assert "takes 3 GAN seeds or more" in analysis.verdict
    assert any("not for the GAN" in note for note in analysis.notes)
    two = analysed(study({"baseline": 0.5, "gan": 5}, sets=2))
    assert by_name(two)["gan - baseline"].estimate.gan_seeds == 0
    assert "these 2 synthetic sets" in two.headline[0]


def test_one_trial_seed_settles_nothing() -> None:
    analysis = analysed(study({"baseline": 0.5, "gan": 5}, seeds=1))
    (c,) = analysis.contrasts
    assert (c.verdict, c.p, c.p_holm, c.mde, c.estimate.seed_sd) == ("not settled", None, None, None, None)
    assert c.estimate.low < c.estimate.value < c.estimate.high
    assert "one trial seed, no claim can rest on it" in analysis.headline[0]
    assert analysis.verdict.startswith("Not settled.")
    assert analysis.regimes[0].metrics["auroc"].sd is None


def test_without_synthetic_images_the_question_is_not_asked() -> None:
    analysis = analysed(study({"baseline": 0.5, "augment": 1}))
    assert analysis.verdict.startswith("Not asked")
    assert (analysis.gan_seeds, analysis.headline) == (0, [])


def test_trials_of_other_images_are_refused() -> None:
    first, *others, last = study({"baseline": 0.5, "gan": 1}).trials
    test = last.predictions["test"]
    moved = replace(last, predictions={**last.predictions, "test": replace(test, index=test.index[::-1])})
    with pytest.raises(BalancerError, match=f"{last.folder} and {first.folder} have different test images"):
        analysed(StudyResults.of([first, *others, moved], PATIENTS))


def test_no_trial_is_an_error() -> None:
    with pytest.raises(BalancerError, match="no finished trial"):
        analyse(StudyResults({}, []))


# Words


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, 0.005, 10, low, high, 0.5, 5, 3, 0.0, 0.0, 0.0, 0.0, 0.0, ((1.0, 10),))


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.0099, 0.0099, 0.8, "no benefit"),
        (0.001, 0.009, 0.01, "small"),
        (-0.009, -0.001, 0.01, "small"),
        (0.001, 0.011, 0.01, "helps"),
        (-0.011, -0.001, 0.01, "hurts"),
        (0.001, 0.011, 0.06, "not settled"),  # Holm's p is larger than the interval's
        (-0.011, 0.009, 0.8, "not settled"),
        (-0.009, 0.010, 0.8, "not settled"),
        (0.001, 0.002, None, "not settled"),
    ],
)
def test_verdicts(low: float, high: float, p: float | None, verdict: str) -> None:
    assert verdicts.verdict_of(estimate((low + high) / 2, low, high), p) == verdict


CONTRAST = ContrastResult(
    Contrast("combined - augment", "confirmatory", {"combined": 1.0, "augment": -1.0}, "combined", "augment"),
    estimate(0.012, 0.004, 0.020),
    p=0.0033,
    p_holm=0.0104,
    mde=0.0132,
    verdict="helps",
)
NULL = replace(CONTRAST, estimate=estimate(0.003, -0.006, 0.012), p_holm=0.8, verdict="not settled")
POWER = "not settled at this n (an effect of .013 would have been found in 80 % of such studies)"
HELPS = "combined - augment: +.012 AUROC [.004, .020]"


def another(result: ContrastResult = CONTRAST, **definition: Any) -> ContrastResult:
    return replace(result, contrast=replace(result.contrast, **definition))


def with_sets(result: ContrastResult, sets: int) -> ContrastResult:
    return replace(result, estimate=replace(result.estimate, n_gan_seeds=sets))


def check(name: str, verdict: str) -> ContrastResult:
    return another(replace(CONTRAST, verdict=verdict), name=f"{name} - baseline", left=name, family="check")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (CONTRAST, f"{HELPS}, Holm p = .01: helps"),
        (NULL, f"combined - augment: +.003 AUROC [-.006, .012], Holm p = .80: {POWER}; a loss of .01 is ruled out"),
        (
            replace(NULL, estimate=estimate(-0.006, -0.012, -0.001)),
            f"combined - augment: -.006 AUROC [-.012, -.001], Holm p = .80: {POWER}; a gain of .01 is ruled out",
        ),
        (
            replace(NULL, estimate=estimate(0.003, -0.011, 0.012)),
            f"combined - augment: +.003 AUROC [-.011, .012], Holm p = .80: {POWER}",
        ),
        (with_sets(CONTRAST, 1), f"{HELPS}, Holm p = .01: helps (for this synthetic set)"),
        (
            with_sets(another(replace(CONTRAST, p=0.00001), family="exploratory"), 2),
            f"{HELPS}, unadjusted p < .001: helps (exploratory, for these 2 synthetic sets)",
        ),
        (replace(CONTRAST, verdict="no benefit"), f"{HELPS}, Holm p = .01: no effect larger than .01 either way"),
        (
            replace(CONTRAST, verdict="small"),
            f"{HELPS}, Holm p = .01: a difference, but smaller than the margin of .01",
        ),
        (
            another(replace(CONTRAST, verdict="hurts"), name="interaction", family="factorial", left=None),
            "interaction: +.012 AUROC [.004, .020], unadjusted p = .003: "
            "both together do less than the sum of their effects (exploratory)",
        ),
        (check("flipped", "hurts"), "flipped - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: as it must be"),
        (
            check("permuted", "not settled"),
            "permuted - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: "
            "NOT as it must be: wrong labels should hurt, look for a fault in the study",
        ),
        (
            replace(check("permuted", "not settled"), estimate=estimate(-0.15, -0.35, 0.05), p=0.2),
            "permuted - baseline: -.150 AUROC [-.350, .050], unadjusted p = .20: "
            "not settled at this n: wrong labels should hurt, and may do so",
        ),
        (
            check("baseline_again", "helps"),
            "baseline_again - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: "
            "NOT as it must be, which chance does to one sound study in twenty",
        ),
    ],
)
def test_sentences(result: ContrastResult, text: str) -> None:
    assert verdicts.sentence(result) == text


ANSWERS = {
    ("helps", "helps"): "Yes.",
    ("helps", "not settled"): "In part.",
    ("helps", "small"): "In part.",
    ("helps", "hurts"): "Yes and no.",
    ("hurts", "not settled"): "No, as far as it is settled.",
    ("no benefit", "small"): "No.",
    ("no benefit", "not settled"): "Not settled.",
    ("not settled", "not settled"): "Not settled.",
}


@pytest.mark.parametrize(("pair", "begins"), ANSWERS.items())
def test_answers(pair: tuple[str, str], begins: str) -> None:
    contrasts = [
        another(replace(CONTRAST, verdict=verdict), name=name)
        for name, verdict in zip(("gan - baseline", "combined - augment"), pair, strict=True)
    ]
    text = verdicts.answer(contrasts)
    assert text.startswith(f"{begins} GAN balancing ")
    assert text.count("copies of real images") == pair.count("helps")


@pytest.mark.parametrize(
    ("high", "p", "text"),
    [
        (0.009, 0.4, "GAN balancing did not help by .01, and may or may not have done harm, with augmentation"),
        (0.011, 0.4, "GAN balancing may or may not have helped with augmentation"),
        (0.009, None, "cannot be judged with augmentation"),
        (-0.001, None, "cannot be judged with augmentation"),
    ],
)
def test_an_unsettled_answer_says_what_is_ruled_out(high: float, p: float | None, text: str) -> None:
    assert text in verdicts.answer([replace(NULL, estimate=estimate(0.003, -0.012, high), p=p)])


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ("helps", "It did more than as many copies of real images with augmentation."),
        ("no benefit", "the gain is that of balancing"),
        ("hurts", "copies of real images did better"),
        ("not settled", "is not settled."),
    ],
)
def test_a_gain_is_held_against_copies(verdict: str, text: str) -> None:
    copies = another(replace(CONTRAST, verdict=verdict), name="combined - duplicate_augment")
    assert text in verdicts.answer([CONTRAST, copies])


def test_a_grid_needs_a_complete_seed() -> None:
    trials = [fake_trial("gan", seed, synthetic_set=str(seed)) for seed in range(2)]
    with pytest.raises(BalancerError, match="no trial seed of gan is complete"):
        StudyResults.of(trials, []).grid("gan")


# The proof, shortened: benchmarks/calibration.py runs it at full length


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", REPOSITORY / "benchmarks" / "calibration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_the_simulation_has_the_truth_that_it_states(calibration: ModuleType, classes: int) -> None:
    """AUROCs of simulated studies average to the closed form, for seeds that scatter a lot."""
    scenario = calibration.Scenario(0.03, 0.02, 0.08, 0.01, 0.02, 0.02, 0.01)
    gaps = []
    for number in range(60):
        study = calibration.draw(scenario, ("baseline", "gan"), 3, 3, {"gan": 0.02}, number, classes)
        assert study.truth == pytest.approx({"baseline": 0.95 if classes == 2 else 0.9, "gan": study.truth["gan"]})
        assert study.truth["gan"] - study.truth["baseline"] == pytest.approx(0.02)
        of_class = list(
            zip(range(classes) if classes > 2 else [1], *(study.scores[r] for r in study.truth), strict=True)
        )
        macro = [
            np.mean([roc_auc_score(study.y_true == k, s) for k, *of in of_class for s in of[i][:, 0]]) for i in range(2)
        ]
        gaps.append([auroc - truth for auroc, truth in zip(macro, study.truth.values(), strict=True)])
    mean, error = np.mean(gaps, axis=0), np.std(gaps, axis=0, ddof=1) / len(gaps) ** 0.5
    assert (np.abs(mean) < 3.5 * error).all()
    assert (error < 0.003).all()


@pytest.mark.parametrize(
    ("name", "sets", "studies"),
    [
        ("trial seeds dominate", 3, 40),
        pytest.param("no difference at all", 1, 80, marks=pytest.mark.nightly),
        pytest.param("trial seeds dominate", 3, 80, marks=pytest.mark.nightly),
    ],
)
def test_intervals_cover_and_the_family_keeps_its_level(
    calibration: ModuleType, name: str, sets: int, studies: int
) -> None:
    found = calibration.check_intervals(calibration.SCENARIOS[name], 5, sets, studies=studies, resamples=60)
    assert 0.91 <= np.mean(list(found.covered.values())) <= 0.985
    assert min(found.covered.values()) >= 0.85
    assert found.rejected <= 0.125
    assert found.detectable[calibration.UNADJUSTED] < found.detectable[calibration.HOLM] < 0.06


@pytest.mark.nightly
def test_an_effect_of_the_detectable_size_is_found(calibration: ModuleType) -> None:
    scenario = calibration.SCENARIOS["patients dominate"]
    planted = {calibration.UNADJUSTED: 0.016, calibration.HOLM: 0.019}
    for power in calibration.check_power(scenario, planted, 5, 1, studies=60, resamples=60).values():
        assert 0.6 <= power <= 0.95


@pytest.mark.parametrize("classes", [2, 3])
def test_simulated_resamples_are_those_of_a_study_to_first_order(calibration: ModuleType, classes: int) -> None:
    drawn = calibration.draw(calibration.SCENARIOS["balanced"], ("baseline", "gan"), 2, 1, {}, 0, classes)
    weights = patient_weights(drawn.y_true, drawn.patient, 400, 5, classes)
    fast = calibration.aurocs(drawn, 400, 5)
    labels = [1] if classes == 2 else range(classes)
    exact = {
        r: np.mean(
            [
                [[weighted_auroc((drawn.y_true == k).astype(int), s, weights) for s in row] for row in of_class]
                for k, of_class in zip(labels, drawn.scores[r], strict=True)
            ],
            axis=0,
        )
        for r in fast
    }
    pairs = [(fast[r][:, k, 0], exact[r][k, 0]) for r in fast for k in range(2)]
    pairs.append((pairs[2][0] - pairs[0][0], pairs[2][1] - pairs[0][1]))
    for one, other in pairs:
        assert one[0] == pytest.approx(other[0])
        assert one[1:].std() == pytest.approx(other[1:].std(), rel=0.02)
        assert np.corrcoef(one[1:], other[1:])[0, 1] > 0.98
