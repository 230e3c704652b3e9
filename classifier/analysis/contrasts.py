"""From the trials of an ablation to what they show: contrasts of test AUROC with intervals, tests and verdicts, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.core.errors import BalancerError
from balancer.data.folder import CLASSES
from balancer.metrics.resampling import CONFIDENCE, RESAMPLES, patient_weights, patients_per_class
from classifier.analysis import statistics, verdicts
from classifier.analysis.results import Predictions, main_rows, regimes_in
from classifier.analysis.statistics import Estimate
from classifier.evaluation.metrics import weighted_metrics
from classifier.evaluation.thresholds import with_temperature
from classifier.training.regimes import GROUPS, REGIMES

Array = np.ndarray
Row = dict[str, Any]
Resampled = Mapping[str, Mapping[str, Array]]  # folder -> metric -> (1 + resamples,)

CONFIRMATORY = (
    ("gan", "baseline"),
    ("combined", "augment"),
    ("gan", "duplicate"),
    ("combined", "duplicate_augment"),
)
FACTORIAL = {
    "main effect of synthetic images": {"gan": 0.5, "combined": 0.5, "baseline": -0.5, "augment": -0.5},
    "main effect of augmentation": {"augment": 0.5, "combined": 0.5, "baseline": -0.5, "gan": -0.5},
    verdicts.INTERACTION: {"combined": 1.0, "augment": -1.0, "gan": -1.0, "baseline": 1.0},
}


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms; an arm is a regime, or ``regime@dose`` for another dose than the deficit."""

    name: str
    family: str  # confirmatory, factorial, exploratory, check, dose
    coefficients: dict[str, float]
    left: str | None = None  # the two regimes of a plain difference
    right: str | None = None
    dose: float | None = None


class Trials:
    """The trials by arm, trial seed and synthetic set, with their resampled figures."""

    def __init__(self, rows: Iterable[Row], resampled: Resampled, patients: int) -> None:
        self.patients = patients  # of the class that has fewer
        self._resampled = resampled
        self._arms: dict[str, dict[tuple[int, str | None], str]] = {}
        for row in rows:
            self._arms.setdefault(arm_of(row), {})[int(row["trial_seed"]), row.get("synthetic_set")] = row["folder"]

    @property
    def metrics(self) -> list[str]:
        return list(next(iter(self._resampled.values())))

    def count(self, arm: str) -> int:
        return len(self._arms[arm])

    def cells(self, arms: Iterable[str]) -> tuple[list[int], list[dict[str, list[str]]]]:
        """The trial seeds that are complete, and per seed each arm's folders in the order of the synthetic sets.

        Complete is a seed with every arm, under every set that one of the arms was tried with. An arm without synthetic
        images has one trial per seed, which stands beside every set.
        """
        arms = list(arms)
        keys = [key for arm in arms for key in self._arms[arm]]
        named = sorted({s for _, s in keys if s is not None}, key=lambda s: (len(s), s))
        sets: Sequence[str | None] = named or [None]
        seeds, found = [], []
        for seed in sorted({k for k, _ in keys}):
            of_seed = {arm: [self._folder(arm, seed, s) for s in sets] for arm in arms}
            whole = {arm: [f for f in folders if f is not None] for arm, folders in of_seed.items()}
            if all(len(folders) == len(sets) for folders in whole.values()):
                seeds.append(seed)
                found.append(whole)
        return seeds, found

    def _folder(self, arm: str, seed: int, synthetic_set: str | None) -> str | None:
        return self._arms[arm].get((seed, synthetic_set)) or self._arms[arm].get((seed, None))

    def folders(self, arms: Iterable[str], arm: str) -> list[str]:
        """The trials of ``arm`` that a contrast of ``arms`` rests on, each once."""
        _, cells = self.cells(arms)
        return list(dict.fromkeys(f for of_seed in cells for f in of_seed[arm]))

    def estimate(self, coefficients: Mapping[str, float], metric: str = "auroc") -> Estimate | None:
        """The weighted sum of the arms' figures; None where no trial seed is complete."""
        _, cells = self.cells(coefficients)
        if not cells:
            return None
        by_arm = [
            weight * np.array([[self._resampled[f][metric] for f in of_seed[arm]] for of_seed in cells])
            for arm, weight in coefficients.items()
        ]
        return statistics.crossed_estimate(np.moveaxis(sum(by_arm[1:], by_arm[0]), -1, 0), self.patients)


def arm_of(row: Row) -> str:
    """``gan``, or ``gan@0.5`` for another dose than the deficit."""
    return row["regime"] if row.get("dose") in (None, 1.0) else f"{row['regime']}@{row['dose']:g}"


def analyse(
    rows: Sequence[Row],
    predictions: Mapping[str, Predictions],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that the trials show, ready for JSON. docs/statistics.md tells the method.

    Args:
        rows: of ``results.jsonl``; those of an unknown regime are ignored.
        predictions: of each row's folder.
        groups: patient of every image of the data set, indexed by ``Predictions.index``.
        resamples: of test patients, the same for every regime and seed.
        seed: of the resamples.

    Returns:
        Counts of the study, ``regimes`` with their figures, ``contrasts``, a ``headline`` per confirmatory contrast, the
        ``verdict`` and ``notes``.

    Raises:
        BalancerError: no trial, trials on different test images, or fewer than two patients in a class.
    """
    rows = [row for row in rows if row["regime"] in REGIMES]
    test = _common_test(rows, predictions)
    patients = [groups[i] for i in test.index]
    weights = patient_weights(test.y_true, patients, resamples, seed)
    resampled = {row["folder"]: resample(predictions[row["folder"]], weights) for row in rows}
    trials = Trials(rows, resampled, min(patients_per_class(test.y_true, patients)))
    asked = [(c, e) for c in contrasts(rows) if (e := trials.estimate(c.coefficients)) is not None]
    p_holm = adjusted_p(asked)
    found = [_described(c, e, p_holm.get(c.name), len(p_holm), _references(c, trials, predictions)) for c, e in asked]
    regimes = [_figures(name, trials) for name in regimes_in(main_rows(rows))]
    seeds = sorted({int(row["trial_seed"]) for row in rows})
    sets = {row.get("synthetic_set") for row in rows if REGIMES[row["regime"]].synthetic}
    left_out = sum(r["trials"] - r["trial_seeds"] * max(r["gan_seeds"], 1) for r in regimes)
    return {
        "n_test": len(patients),
        "n_patients": len(set(patients)),
        "test_counts": {name: int((test.y_true == label).sum()) for label, name in enumerate(CLASSES)},
        "trial_seeds": seeds,
        "gan_seeds": len(sets),
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "margin": verdicts.MARGIN,
        "regimes": regimes,
        "contrasts": found,
        "headline": [c["sentence"] for c in found if c["family"] == "confirmatory"],
        "verdict": verdicts.answer(found),
        "notes": verdicts.notes(len(patients), len(set(patients)), len(seeds), len(sets), left_out),
    }


def _common_test(rows: Sequence[Row], predictions: Mapping[str, Predictions]) -> Predictions:
    """The predictions of one trial, once it is sure that all are of the same images."""
    if not rows:
        raise BalancerError("there is no finished trial to analyse; expected at least one line in results.jsonl")
    first = predictions[rows[0]["folder"]]
    for row in rows:
        other = predictions[row["folder"]]
        if not other.same_images(first):
            raise BalancerError(
                f"{row['folder']} and {rows[0]['folder']} were tested on different images; analyse trials of one data set"
            )
    return first


def resample(trial: Predictions, weights: Array) -> dict[str, Array]:
    """Every test figure of a trial (b,), under each row of ``weights`` (b, n); NLL, Brier and ECE with its temperature."""
    calibrated = with_temperature(trial.y_score, trial.temperature)
    return weighted_metrics(trial.y_true, trial.y_score, calibrated, trial.threshold, weights)


def contrasts(rows: Sequence[Row]) -> list[Contrast]:
    """What the trials that are there allow to ask, family by family."""
    present = set(regimes_in(main_rows(rows)))
    found = [_difference("confirmatory", *pair) for pair in CONFIRMATORY if present.issuperset(pair)]
    found += [Contrast(n, "factorial", c) for n, c in FACTORIAL.items() if present.issuperset(c)]
    found += [_difference("exploratory", *pair) for pair in _exploratory() if present.issuperset(pair)]
    found += [
        _difference("check", name, "baseline") for name in GROUPS["checks"] if present.issuperset((name, "baseline"))
    ]
    doses = sorted({(r["regime"], r["dose"]) for r in rows} - {(r["regime"], r["dose"]) for r in main_rows(rows)})
    for regime, dose in doses:
        reference = REGIMES[regime].reference
        if reference in present:
            arm = f"{regime}@{dose:g}"
            found.append(Contrast(f"{arm} - {reference}", "dose", {arm: 1.0, reference: -1.0}, regime, reference, dose))
    return found


def _difference(family: str, left: str, right: str) -> Contrast:
    return Contrast(f"{left} - {right}", family, {left: 1.0, right: -1.0}, left, right)


def _exploratory() -> list[tuple[str, str]]:
    """What a referee asks next: augmentation, all at once, each control against nothing, the GAN against each cheap control."""
    controls = [REGIMES[name] for name in GROUPS["controls"]]
    pairs = [("augment", "baseline"), ("combined", "baseline"), *((c.name, c.reference) for c in controls)]
    cheap = [c for c in controls if not c.synthetic]
    pairs += [("combined" if c.augment else "gan", c.name) for c in cheap]
    return [pair for pair in pairs if pair not in CONFIRMATORY]


def _described(
    contrast: Contrast, estimate: Estimate, p_holm: float | None, family_size: int, references: dict[str, Any]
) -> dict[str, Any]:
    """The contrast as plain data, with its verdict; a single trial seed is no test."""
    c, e = contrast, estimate
    confirmatory, tested = c.family == "confirmatory", was_tested(e)
    p = e.p if tested else None
    found = {
        "name": c.name,
        "left": c.left,
        "right": c.right,
        "coefficients": c.coefficients,
        "family": c.family,
        "dose": c.dose,
        "estimate": e.value,
        "low": e.low,
        "high": e.high,
        "se": e.se,
        "df": e.df,
        "p": p,
        "p_holm": p_holm,
        "trial_seeds": e.n_trial_seeds,
        "gan_seeds": e.n_gan_seeds if verdicts.uses_synthetic(c.coefficients) else 0,
        "seed_sd": e.seed_sd,
        "variance": {
            "patients": e.patients,
            "trial_seeds": e.trial_seeds,
            "gan_seeds": e.gan_seeds,
            "counted_twice": e.counted_twice,
        },
        "mde": statistics.detectable_effect(e, family_size if confirmatory else None) if tested else None,
        "verdict": verdicts.verdict_of(e, p_holm if confirmatory else p),
        **references,
    }
    return found | {"sentence": verdicts.sentence(found)}


def was_tested(estimate: Estimate) -> bool:
    """Not with one trial seed, whose own scatter nothing shows."""
    return estimate.n_trial_seeds > 1


def adjusted_p(asked: Iterable[tuple[Contrast, Estimate]]) -> dict[str, float]:
    """Holm's p of the confirmatory contrasts that were tested, by name."""
    tested = {c.name: statistics.family_p(e) for c, e in asked if c.family == "confirmatory" and was_tested(e)}
    return dict(zip(tested, statistics.holm(list(tested.values())), strict=True))


def _references(contrast: Contrast, trials: Trials, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    """DeLong of the scores averaged over trainings, McNemar of their majority decision; None for sums of more than two arms."""
    if contrast.left is None:
        return {"delong": None, "mcnemar": None}
    scores, right = [], []
    for arm in contrast.coefficients:  # left, then right
        of_arm = [predictions[f] for f in trials.folders(contrast.coefficients, arm)]
        y_true = of_arm[0].y_true
        scores.append(np.mean([t.y_score for t in of_arm], axis=0))
        called = np.mean([t.y_score >= t.threshold for t in of_arm], axis=0) >= 0.5
        right.append(called == y_true)
    estimate, se, p = statistics.delong(y_true, *scores)
    only_left, only_right, p_exact = statistics.mcnemar(*right)
    return {
        "delong": {"estimate": estimate, "se": se, "p": p},
        "mcnemar": {"n10": only_left, "n01": only_right, "p": p_exact},
    }


def _figures(regime: str, trials: Trials) -> dict[str, Any]:
    """Mean, SD over trial seeds and 95 % interval of every test figure of a regime."""
    seeds, cells = trials.cells([regime])
    metrics = {}
    for metric in trials.metrics:
        e = trials.estimate({regime: 1.0}, metric)
        if e is not None:
            low, high = statistics.metric_interval(metric, e, trials.patients)
            metrics[metric] = {"mean": e.value, "sd": e.seed_sd, "low": low, "high": high}
    sets = len(cells[0][regime]) if cells else 0
    return {
        "regime": regime,
        "trials": trials.count(regime),
        "trial_seeds": len(seeds),
        "gan_seeds": sets if REGIMES[regime].synthetic else 0,
        "metrics": metrics,
    }
