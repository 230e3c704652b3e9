"""From trials to verdicts: figures recomputed from the predictions, families, sentences; and the proof by simulated studies, shortened."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from balancer.core.errors import BalancerError
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import patient_weights
from classifier.analysis import contrasts as analysis
from classifier.analysis import statistics, verdicts
from classifier.analysis.contrasts import analyse
from classifier.analysis.results import Predictions, read_groups, read_predictions
from classifier.analysis.statistics import Estimate
from classifier.evaluation.metrics import evaluate
from classifier.report.tables import COLUMNS

REPOSITORY = Path(__file__).resolve().parents[3]
Array = np.ndarray
Row = dict[str, Any]
FOUR = {"baseline": 1.5, "augment": 2.0, "gan": 1.6, "combined": 1.9}
EIGHT = FOUR | {"duplicate": 1.5, "duplicate_augment": 2.0, "weighted": 1.4, "weighted_augment": 2.0}
N = 90


class Fake:
    """Trials of classifiers whose separation of the classes is given by arm."""

    def __init__(self, separations: Mapping[str, float], seeds: int = 3, sets: int = 1, noise: float = 0.4) -> None:
        rng = np.random.default_rng(7)
        self.y_true = (np.arange(N) % 3 > 0).astype(int)
        self.index = np.arange(10, 10 + N)
        # Images of other folds come first; 15 patients of each class, with two or four images.
        self.groups = [f"other {i}" for i in range(10)] + [f"{y} {i // 6}" for i, y in enumerate(self.y_true)]
        self.rows: list[Row] = []
        self.predictions: dict[str, Predictions] = {}
        common = rng.normal(size=N)
        for seed in range(seeds):
            for arm, separation in separations.items():
                regime, _, dose = arm.partition("@")
                synthetic = analysis.REGIMES[regime].synthetic
                for s in range(sets if synthetic else 1):
                    logit = separation * (self.y_true - 0.5) + common + noise * rng.normal(size=N)
                    self.add(regime, seed, str(s) if synthetic else None, dose, 1 / (1 + np.exp(-logit)))

    def add(self, regime: str, seed: int, synthetic_set: str | None, dose: str, score: Array) -> None:
        folder = f"trials/{regime}-{synthetic_set}-{dose}-{seed}"
        trial = Predictions(self.y_true, score, 0.45, 1.3, self.index)
        self.predictions[folder] = trial
        self.rows.append(
            {
                "regime": regime,
                "trial_seed": seed,
                "synthetic_set": synthetic_set,
                "dose": float(dose) if dose else (1.0 if synthetic_set else None),
                "val": {"auroc": 0.99},
                "test": evaluate(self.y_true, score, trial.threshold, trial.temperature).to_json(),
                "folder": folder,
            }
        )

    def analyse(self, resamples: int = 150, seed: int = 0) -> dict[str, Any]:
        return analyse(self.rows, self.predictions, self.groups, resamples, seed)

    def of(self, regime: str, seed: int) -> list[Predictions]:
        return [
            self.predictions[r["folder"]]
            for r in self.rows
            if (r["regime"], r["trial_seed"]) == (regime, seed) and r["dose"] in (None, 1)
        ]


def auroc(trial: Predictions) -> float:
    return float(roc_auc_score(trial.y_true, trial.y_score))


@pytest.fixture(scope="module")
def eight() -> tuple[Fake, dict[str, Any]]:
    fake = Fake({**EIGHT, "gan@0.5": 1.55, "baseline_again": 1.5, "flipped": 0.3}, seeds=4, sets=3)
    return fake, fake.analyse()


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in found["contrasts"]}


def test_estimates_are_paired_means_over_seeds_and_sets(eight: tuple[Fake, dict[str, Any]]) -> None:
    fake, found = eight
    for name in ("gan - baseline", "combined - duplicate_augment", "duplicate - baseline", "combined - augment"):
        left, right = name.split(" - ")
        expected = [np.mean([auroc(t) for t in fake.of(left, k)]) - auroc(fake.of(right, k)[0]) for k in range(4)]
        contrast = by_name(found)[name]
        assert contrast["estimate"] == pytest.approx(np.mean(expected))
        assert contrast["seed_sd"] == pytest.approx(np.std(expected, ddof=1))
        assert contrast["low"] < contrast["estimate"] < contrast["high"]
        assert contrast["coefficients"] == {left: 1, right: -1}
        sets = 0 if name == "duplicate - baseline" else 3
        assert (contrast["trial_seeds"], contrast["gan_seeds"]) == (4, sets)


def test_the_two_by_two_design(eight: tuple[Fake, dict[str, Any]]) -> None:
    _, found = eight
    c = {name: contrast["estimate"] for name, contrast in by_name(found).items()}
    without, within = c["gan - baseline"], c["combined - augment"]
    assert c["main effect of synthetic images"] == pytest.approx((without + within) / 2)
    assert c["interaction"] == pytest.approx(within - without)
    assert c["main effect of augmentation"] == pytest.approx(c["combined - baseline"] - (without + within) / 2)
    assert by_name(found)["interaction"]["left"] is None
    assert by_name(found)["interaction"]["delong"] is None


def test_families(eight: tuple[Fake, dict[str, Any]]) -> None:
    _, found = eight
    families: dict[str, list[str]] = {}
    for c in found["contrasts"]:
        families.setdefault(c["family"], []).append(c["name"])
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


def estimated(fake: Fake, name: str, resamples: int = 150) -> Estimate:
    """A contrast put together by hand from the predictions."""
    weights = patient_weights(fake.y_true, fake.groups[10:], resamples, 0)
    seeds = sorted({r["trial_seed"] for r in fake.rows})
    left, right = (
        np.array([[weighted_auroc(t.y_true, t.y_score, weights) for t in fake.of(arm, k)] for k in seeds])
        for arm in name.split(" - ")
    )
    return statistics.crossed_estimate(np.moveaxis(left - right, -1, 0), 15)


def test_holm_is_over_the_confirmatory_family_that_is_there(eight: tuple[Fake, dict[str, Any]]) -> None:
    four = Fake(FOUR)
    for fake, found, size in ((*eight, 4), (four, four.analyse(), 2)):
        family = [c for c in found["contrasts"] if c["family"] == "confirmatory"]
        estimates = [estimated(fake, c["name"]) for c in family]
        assert len(family) == size
        assert [c["p_holm"] for c in family] == pytest.approx(
            statistics.holm([statistics.family_p(e) for e in estimates])
        )
        assert [c["mde"] for c in family] == pytest.approx([statistics.detectable_effect(e, size) for e in estimates])
        for c in found["contrasts"]:
            assert c["p"] == pytest.approx(2 * stats.t.sf(abs(c["estimate"] / c["se"]), c["df"]))
            if c["family"] != "confirmatory":
                assert c["p_holm"] is None
                found_at = stats.nct.sf(stats.t.ppf(0.975, c["df"]), c["df"], c["mde"] / c["se"])
                assert found_at == pytest.approx(0.8)
        assert found["headline"] == [c["sentence"] for c in family]


def test_figures_of_a_regime(eight: tuple[Fake, dict[str, Any]]) -> None:
    """Means over all trials of what each trial's row says; the interval inside what is possible."""
    fake, found = eight
    of_test = {c.key: c.path for c in COLUMNS if c.path[0] == "test"}
    for entry in found["regimes"]:
        rows = [r for r in fake.rows if r["regime"] == entry["regime"] and r["dose"] in (None, 1)]
        sets = 3 if analysis.REGIMES[entry["regime"]].synthetic else 0
        assert (entry["trials"], entry["trial_seeds"], entry["gan_seeds"]) == (len(rows), 4, sets)
        for key, (_, *place) in of_test.items():
            expected = [r["test"][place[0]] if len(place) == 1 else r["test"][place[0]][place[1]] for r in rows]
            figure = entry["metrics"][key]
            assert figure["mean"] == pytest.approx(np.mean(expected)), key
            assert 0 <= figure["low"] <= figure["mean"] <= figure["high"], key
            assert figure["high"] <= 1 or key == "nll"
    assert [e["regime"] for e in found["regimes"]][:3] == ["baseline", "augment", "gan"]


def test_counts_of_the_study(eight: tuple[Fake, dict[str, Any]]) -> None:
    _, found = eight
    assert (found["n_test"], found["n_patients"], found["gan_seeds"], found["trial_seeds"]) == (90, 30, 3, [0, 1, 2, 3])
    assert found["test_counts"] == {"NORMAL": 30, "PNEUMONIA": 60}
    assert (found["confidence"], found["margin"], found["resamples"]) == (0.95, 0.01, 150)
    assert not any("left out" in note or "synthetic set" in note for note in found["notes"])


def test_the_same_each_time_and_ready_for_json(eight: tuple[Fake, dict[str, Any]]) -> None:
    fake, found = eight
    text = json.dumps(found, allow_nan=False)
    assert text == json.dumps(fake.analyse(), allow_nan=False)
    assert text != json.dumps(fake.analyse(seed=1), allow_nan=False)


def test_the_references_are_of_averaged_scores_and_majority_decisions(eight: tuple[Fake, dict[str, Any]]) -> None:
    fake, found = eight
    scores, right = [], []
    for regime in ("combined", "augment"):
        of_regime = [t for k in range(4) for t in fake.of(regime, k)]
        scores.append(np.mean([t.y_score for t in of_regime], axis=0))
        votes = np.mean([t.y_score >= 0.45 for t in of_regime], axis=0)
        right.append((votes >= 0.5) == fake.y_true)
    c = by_name(found)["combined - augment"]
    assert tuple(c["delong"].values()) == pytest.approx(statistics.delong(fake.y_true, *scores))
    assert (c["mcnemar"]["n10"], c["mcnemar"]["n01"]) == (np.sum(right[0] & ~right[1]), np.sum(right[1] & ~right[0]))


def test_a_dose_is_read_against_no_images_and_kept_out_of_the_rest(eight: tuple[Fake, dict[str, Any]]) -> None:
    fake, found = eight
    c = by_name(found)["gan@0.5 - baseline"]
    half = [r["test"]["auroc"] for r in fake.rows if r["dose"] == 0.5]
    assert c["estimate"] == pytest.approx(np.mean(half) - np.mean([auroc(fake.of("baseline", k)[0]) for k in range(4)]))
    assert (c["left"], c["right"], c["dose"], c["coefficients"]) == (
        "gan",
        "baseline",
        0.5,
        {"gan@0.5": 1, "baseline": -1},
    )
    without = Fake({**EIGHT, "baseline_again": 1.5, "flipped": 0.3}, seeds=4, sets=3)
    assert {r["regime"] for r in found["regimes"]} == {r["regime"] for r in without.analyse()["regimes"]}


def test_only_complete_seeds_count() -> None:
    fake = Fake(FOUR, seeds=4, sets=3)
    fake.rows = [
        r
        for r in fake.rows
        if (r["regime"], r["trial_seed"]) != ("baseline", 1)
        and (r["regime"], r["trial_seed"], r["synthetic_set"]) != ("combined", 3, "2")
    ]
    found = fake.analyse()
    c = by_name(found)
    assert {name: c[name]["trial_seeds"] for name in ("gan - baseline", "combined - augment", "interaction")} == {
        "gan - baseline": 3,
        "combined - augment": 3,
        "interaction": 2,
    }
    assert {r["regime"]: (r["trials"], r["trial_seeds"]) for r in found["regimes"]}["combined"] == (11, 3)
    assert any(note.startswith("2 trials left out") for note in found["notes"])


def test_identical_predictions_differ_by_nothing() -> None:
    fake = Fake(FOUR)
    for row in fake.rows:
        fake.predictions[row["folder"]] = fake.of("baseline", row["trial_seed"])[0]
    for c in fake.analyse()["contrasts"]:
        assert (c["estimate"], c["low"], c["high"], c["p"], c["verdict"]) == (0, 0, 0, 1, "no benefit")


def test_a_great_effect_is_found_and_said() -> None:
    found = Fake({"baseline": 0.5, "augment": 0.5, "gan": 5, "combined": 5, "duplicate": 0.5}, sets=3).analyse()
    assert [by_name(found)[n]["verdict"] for n in ("gan - baseline", "combined - augment", "gan - duplicate")] == [
        "helps"
    ] * 3
    assert found["headline"][0].endswith(": helps")
    assert found["verdict"].startswith("Yes. GAN balancing helped without augmentation")
    assert "more than as many copies of real images without augmentation" in found["verdict"]
    assert "not compared with as many copies of real images with augmentation" in found["verdict"]


def test_a_difference_that_holm_does_not_find_is_not_claimed() -> None:
    found = by_name(Fake({**FOUR, "gan": 2.1, "combined": 2.0, "duplicate": 1.5}, seeds=4, sets=3).analyse())
    c = found["gan - baseline"]
    assert c["p"] < 0.05 < c["p_holm"]
    assert c["low"] > 0
    assert c["verdict"] == "not settled"


def test_one_synthetic_set_is_not_the_gan() -> None:
    found = Fake({"baseline": 0.5, "gan": 5}, sets=1).analyse()
    assert by_name(found)["gan - baseline"]["sentence"].endswith("helps (for this synthetic set)")
    assert found["verdict"].startswith("Yes. This synthetic set helped")
    assert "takes 3 GAN seeds or more" in found["verdict"]
    assert any("not for the GAN" in note for note in found["notes"])
    two = Fake({"baseline": 0.5, "gan": 5}, sets=2).analyse()
    assert by_name(two)["gan - baseline"]["variance"]["gan_seeds"] == 0
    assert "these 2 synthetic sets" in two["headline"][0]


def test_one_trial_seed_settles_nothing() -> None:
    found = Fake({"baseline": 0.5, "gan": 5}, seeds=1).analyse()
    (c,) = found["contrasts"]
    assert (c["verdict"], c["p"], c["p_holm"], c["mde"], c["seed_sd"]) == ("not settled", None, None, None, None)
    assert c["low"] < c["estimate"] < c["high"]
    assert "one trial seed, no claim can rest on it" in c["sentence"]
    assert found["verdict"].startswith("Not settled.")
    assert found["regimes"][0]["metrics"]["auroc"]["sd"] is None


def test_without_synthetic_images_the_question_is_not_asked() -> None:
    found = Fake({"baseline": 0.5, "augment": 1}).analyse()
    assert found["verdict"].startswith("Not asked")
    assert (found["gan_seeds"], found["headline"]) == (0, [])


def test_trials_of_other_images_are_refused() -> None:
    fake = Fake({"baseline": 0.5, "gan": 1})
    last = fake.rows[-1]["folder"]
    t = fake.predictions[last]
    fake.predictions[last] = Predictions(t.y_true, t.y_score, t.threshold, t.temperature, t.index + 1)
    with pytest.raises(BalancerError, match="tested on different images"):
        fake.analyse()


def test_no_trial_is_an_error() -> None:
    with pytest.raises(BalancerError, match="no finished trial"):
        analyse([], {}, [])


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


CONTRAST = {
    "name": "combined - augment",
    "left": "combined",
    "right": "augment",
    "coefficients": {"combined": 1.0, "augment": -1.0},
    "family": "confirmatory",
    "estimate": 0.012,
    "low": 0.004,
    "high": 0.020,
    "p": 0.0033,
    "p_holm": 0.0104,
    "gan_seeds": 3,
    "mde": 0.0132,
    "verdict": "helps",
}
NULL = {"estimate": 0.003, "low": -0.006, "high": 0.012, "p_holm": 0.8, "verdict": "not settled"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "combined - augment: +.012 AUROC [.004, .020], Holm p = .01: helps"),
        (
            NULL,
            "combined - augment: +.003 AUROC [-.006, .012], Holm p = .80: "
            "not settled at this n (an effect of .013 would have been found in 80 % of such studies); a loss of .01 is ruled out",
        ),
        (
            NULL | {"estimate": -0.006, "low": -0.012, "high": -0.001},
            "combined - augment: -.006 AUROC [-.012, -.001], Holm p = .80: "
            "not settled at this n (an effect of .013 would have been found in 80 % of such studies); a gain of .01 is ruled out",
        ),
        (
            NULL | {"low": -0.011},
            "combined - augment: +.003 AUROC [-.011, .012], Holm p = .80: "
            "not settled at this n (an effect of .013 would have been found in 80 % of such studies)",
        ),
        (
            {"gan_seeds": 1},
            "combined - augment: +.012 AUROC [.004, .020], Holm p = .01: helps (for this synthetic set)",
        ),
        (
            {"family": "exploratory", "p": 0.00001, "gan_seeds": 2},
            "combined - augment: +.012 AUROC [.004, .020], unadjusted p < .001: helps (exploratory, for these 2 synthetic sets)",
        ),
        (
            {"verdict": "no benefit"},
            "combined - augment: +.012 AUROC [.004, .020], Holm p = .01: no effect larger than .01 either way",
        ),
        (
            {"verdict": "small"},
            "combined - augment: +.012 AUROC [.004, .020], Holm p = .01: a difference, but smaller than the margin of .01",
        ),
        (
            {"name": "interaction", "family": "factorial", "left": None, "verdict": "hurts"},
            "interaction: +.012 AUROC [.004, .020], unadjusted p = .003: both together do less than the sum of their effects (exploratory)",
        ),
        (
            {"name": "flipped - baseline", "left": "flipped", "family": "check", "verdict": "hurts"},
            "flipped - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: as it must be",
        ),
        (
            {"name": "permuted - baseline", "left": "permuted", "family": "check", "verdict": "not settled"},
            "permuted - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: "
            "NOT as it must be: wrong labels should hurt, look for a fault in the study",
        ),
        (
            {"name": "baseline_again - baseline", "left": "baseline_again", "family": "check", "verdict": "helps"},
            "baseline_again - baseline: +.012 AUROC [.004, .020], unadjusted p = .003: "
            "NOT as it must be, which chance does to one sound study in twenty",
        ),
    ],
)
def test_sentences(changes: dict[str, Any], text: str) -> None:
    assert verdicts.sentence(CONTRAST | changes) == text


ANSWERS = {
    ("helps", "helps"): "Yes.",
    ("helps", "not settled"): "In part.",
    ("helps", "small"): "In part.",
    ("helps", "hurts"): "Yes and no.",
    ("hurts", "not settled"): "No.",
    ("no benefit", "small"): "No.",
    ("no benefit", "not settled"): "Not settled.",
    ("not settled", "not settled"): "Not settled.",
}


@pytest.mark.parametrize(("pair", "begins"), ANSWERS.items())
def test_answers(pair: tuple[str, str], begins: str) -> None:
    contrasts = [
        CONTRAST | {"name": name, "verdict": verdict}
        for name, verdict in zip(("gan - baseline", "combined - augment"), pair, strict=True)
    ]
    text = verdicts.answer(contrasts)
    assert text.startswith(f"{begins} GAN balancing ")
    assert text.count("copies of real images") == pair.count("helps")


@pytest.mark.parametrize(
    ("high", "p", "said"),
    [
        (0.009, 0.4, "GAN balancing did not help by .01, and may or may not have done harm, with augmentation"),
        (0.011, 0.4, "GAN balancing may or may not have helped with augmentation"),
        (0.009, None, "GAN balancing may or may not have helped with augmentation"),
    ],
)
def test_an_unsettled_answer_says_what_is_ruled_out(high: float, p: float | None, said: str) -> None:
    assert said in verdicts.answer([CONTRAST | NULL | {"low": -0.012, "high": high, "p": p}])


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("helps", "It did more than as many copies of real images with augmentation."),
        ("no benefit", "the gain is that of balancing"),
        ("hurts", "copies of real images did better"),
        ("not settled", "is not settled."),
    ],
)
def test_a_gain_is_held_against_copies(verdict: str, said: str) -> None:
    copies = CONTRAST | {"name": "combined - duplicate_augment", "verdict": verdict}
    assert said in verdicts.answer([CONTRAST, copies])


# Files


def write_run(fake: Fake, run: Path) -> None:
    for row in fake.rows:
        folder, trial = run / row["folder"], fake.predictions[row["folder"]]
        folder.mkdir(parents=True)
        scores = {"test_true": trial.y_true, "test_score": trial.y_score.astype(np.float32), "test_index": trial.index}
        np.savez(folder / "predictions.npz", val_index=[0], val_true=[1], val_score=[0.5], **scores)
    with (run / "split.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["name", "fold", "label", "patient", "sha256"])
        for i, group in enumerate(fake.groups):
            rows.writerow(
                [f"{i}.png", "test" if i >= 10 else "train", "NORMAL", group, "same" if i in (3, 12) else f"{i}"]
            )


def test_a_run_is_read_back(tmp_path: Path) -> None:
    fake = Fake({"baseline": 1, "gan": 1.2}, sets=2)
    write_run(fake, tmp_path)
    read, groups = read_predictions(fake.rows, tmp_path), read_groups(tmp_path)
    for folder, trial in fake.predictions.items():
        found = read[folder]
        assert (found.y_true == trial.y_true).all()
        assert found.y_score == pytest.approx(trial.y_score, abs=1e-6)
        assert (found.index == trial.index).all()
        assert (found.threshold, found.temperature) == (0.45, 1.3)
    assert groups[3] == groups[12]  # one file under two patients
    assert len(set(groups)) == len(set(fake.groups)) - 1
    found = analyse(fake.rows, read, groups, 50)
    assert found["contrasts"][0]["estimate"] == pytest.approx(fake.analyse()["contrasts"][0]["estimate"], abs=1e-6)


def remove(run: Path) -> None:
    (run / "trials/gan-0--1/predictions.npz").unlink()


def cut_short(run: Path) -> None:
    path = run / "trials/gan-0--1/predictions.npz"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize("damage", [remove, cut_short])
def test_predictions_that_cannot_be_read(damage: Callable[[Path], None], tmp_path: Path) -> None:
    fake = Fake({"baseline": 1, "gan": 1.2})
    write_run(fake, tmp_path)
    damage(tmp_path)
    with pytest.raises(BalancerError, match=r"gan-0--1.predictions.npz cannot be read .* resume"):
        read_predictions(fake.rows, tmp_path)


def test_a_split_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match=r"split.csv cannot be read"):
        read_groups(tmp_path)
    (tmp_path / "split.csv").write_text("name,fold\na,test\n")
    with pytest.raises(BalancerError, match=r"expected columns name, fold, label, patient, sha256"):
        read_groups(tmp_path)


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


def test_the_simulation_has_the_truth_that_it_states(calibration: ModuleType) -> None:
    """AUROCs of simulated studies average to the closed form, for seeds that scatter a lot."""
    scenario = calibration.Scenario(0.03, 0.02, 0.08, 0.01, 0.02, 0.02, 0.01)
    gaps = []
    for number in range(40):
        study = calibration.draw(scenario, ("baseline", "gan"), 3, 3, {"gan": 0.02}, number)
        assert study.truth == pytest.approx({"baseline": 0.95, "gan": 0.97})
        gaps.append(
            [
                np.mean([roc_auc_score(study.y_true, s) for s in study.scores[r][:, 0]]) - study.truth[r]
                for r in study.truth
            ]
        )
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
    assert found.detectable[None] < found.detectable[4] < 0.06


@pytest.mark.nightly
def test_an_effect_of_the_detectable_size_is_found(calibration: ModuleType) -> None:
    scenario = calibration.SCENARIOS["patients dominate"]
    power = calibration.check_power(scenario, 0.016, None, 5, 1, studies=60, resamples=60)
    assert 0.6 <= power <= 0.95
