"""Check the intervals of an ablation on simulated studies, whose true effects are known in closed form.

Scores are Gaussian: a separation of the classes, plus what makes an image hard. An image can be hard for every
classifier, for one regime, for one synthetic set, or for one training; a patient's images share half of each. The
separation varies with the trial seed (alike for all regimes, and by regime), with the GAN seed, and with both together.
So the expected AUROC is a normal probability. Images and patients are as many as in the official test set. Every study
goes through classifier.analysis.statistics, like the trials of an ablation.

    python benchmarks/calibration.py [--studies 2000] [--resamples 100] [--trial-seeds 5] [--gan-seeds 1,3] [--scenarios
    ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import stats

from balancer.core import progress
from balancer.core.seeding import derive_seed
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import patient_weights
from classifier.analysis import statistics
from classifier.analysis.contrasts import CONFIRMATORY, FACTORIAL
from classifier.analysis.statistics import ALPHA, Estimate

Array = np.ndarray
# Patients with 1, 2, ... images in the official test set, by class: 234 + 390 images of 202 + 202 patients.
PATIENTS_WITH = ({1: 175, 2: 23, 3: 3, 4: 1}, {1: 125, 2: 29, 3: 19, 4: 11, 5: 10, 6: 4, 7: 2, 9: 2})
FEWEST_PATIENTS = min(sum(counts.values()) for counts in PATIENTS_WITH)
WITHIN_PATIENT = 0.5  # share of every score's variance that a patient's images have in common
AUROC = 0.95
SLOPE = float(stats.norm.pdf(stats.norm.ppf(AUROC))) / 2**0.5  # of the AUROC in the separation, in SDs of a score
SYNTHETIC = ("gan", "combined")
REGIMES = ("baseline", "augment", "gan", "combined", "duplicate", "duplicate_augment")
FAMILY = {f"{left} - {right}": {left: 1.0, right: -1.0} for left, right in CONFIRMATORY}
CONTRASTS = {**FAMILY, **FACTORIAL}
PLANTED = "gan - baseline"  # gets the effect whose detection is counted
OWN = "baseline's AUROC"
TESTS = (None, len(FAMILY))  # an unadjusted test, and Holm's first step


@dataclass(frozen=True)
class Scenario:
    """Shares of a score's variance, then standard deviations of the AUROC from training to training."""

    of_regime: float  # share: an image is hard for one regime
    of_set: float  # share: an image is hard for one synthetic set
    of_training: float  # share: an image is hard for one training; averages out over seeds
    trial: float  # SD: effect of a trial seed on all regimes; cancels in contrasts
    trial_own: float  # SD: effect of a trial seed on one regime
    gan: float  # SD: effect of a GAN seed
    gan_trial: float  # SD: effect of a GAN seed that differs between trial seeds


SCENARIOS = {
    "no difference at all": Scenario(0, 0, 0.10, 0.004, 0, 0, 0),
    "patients dominate": Scenario(0.10, 0.02, 0.05, 0.002, 0.001, 0.001, 0.0005),
    "balanced": Scenario(0.05, 0.03, 0.10, 0.004, 0.004, 0.003, 0.002),
    "trial seeds dominate": Scenario(0.03, 0.02, 0.08, 0.006, 0.012, 0.004, 0.004),
    "GAN seeds dominate": Scenario(0.03, 0.03, 0.08, 0.004, 0.004, 0.010, 0.003),
}


@dataclass(frozen=True)
class Study:
    """The scores of one simulated ablation, and the true AUROCs."""

    y_true: Array  # (n,)
    patient: Array  # (n,)
    scores: dict[str, Array]  # regime -> (K, G or 1, n)
    truth: dict[str, float]  # regime -> expected AUROC; conditional on the synthetic sets where these count as fixed


def layout() -> tuple[Array, Array]:
    """Return class and patient (n,) of every test image."""
    labels, sizes = [], []
    for label, patients in enumerate(PATIENTS_WITH):
        for size, count in patients.items():
            labels += [label] * count
            sizes += [size] * count
    return np.repeat(labels, sizes), np.repeat(np.arange(len(sizes)), sizes)


def draw(scenario: Scenario, regimes: Iterable[str], k: int, g: int, shift: Mapping[str, float], seed: int) -> Study:
    """Simulate a study of ``k`` trial seeds and ``g`` GAN seeds; ``shift`` adds to the AUROC of .95 of a regime."""
    rng = np.random.default_rng(seed)
    y_true, patient = layout()
    sd = {f.name: getattr(scenario, f.name) / SLOPE for f in fields(scenario)}

    def noise(*shape: int) -> Array:
        by_patient = rng.standard_normal((*shape, patient.max() + 1))[..., patient]
        by_image = rng.standard_normal((*shape, len(patient)))
        return WITHIN_PATIENT**0.5 * by_patient + (1 - WITHIN_PATIENT) ** 0.5 * by_image

    shared, trial = noise(), sd["trial"] * rng.standard_normal((k, 1))
    scores, truth = {}, {}
    for regime in regimes:
        sets, used = (g, 1) if regime in SYNTHETIC else (1, 0)
        gan = used * sd["gan"] * rng.standard_normal(sets)
        own = sd["trial_own"] * rng.standard_normal((k, 1)) + used * sd["gan_trial"] * rng.standard_normal((k, sets))
        of_seeds = sd["trial"] ** 2 + sd["trial_own"] ** 2 + used * sd["gan_trial"] ** 2
        expected = stats.norm.ppf(AUROC + shift.get(regime, 0.0))
        centre = expected * (2 + of_seeds + used * sd["gan"] ** 2) ** 0.5
        shares = scenario.of_regime, used * scenario.of_set, scenario.of_training
        parts = (noise(1, 1), noise(1, sets), noise(k, sets))
        difficulty = (1 - sum(shares)) ** 0.5 * shared + sum(s**0.5 * p for s, p in zip(shares, parts, strict=True))
        scores[regime] = (centre + trial + gan + own)[..., None] * y_true + difficulty
        conditional = stats.norm.cdf((centre + gan) / (2 + of_seeds) ** 0.5).mean()
        fixed = sets < statistics.FEWEST_GAN_SEEDS
        truth[regime] = float(conditional if fixed else stats.norm.cdf(expected))
    return Study(y_true, patient, scores, truth)


def aurocs(study: Study, resamples: int, seed: int) -> dict[str, Array]:
    """Return the AUROC (1 + resamples, K, G) of each regime, for the same resamples of patients."""
    weights = patient_weights(study.y_true, study.patient, resamples, seed)
    by_regime = {}
    for regime, scores in study.scores.items():
        cells = [[weighted_auroc(study.y_true, s, weights) for s in row] for row in scores]
        by_regime[regime] = np.moveaxis(np.array(cells), -1, 0)
    return by_regime


def estimates(values: Mapping[str, Array], contrasts: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Estimate each contrast as an ablation does."""
    return {
        name: statistics.crossed_estimate(np.asarray(sum(c * values[r] for r, c in contrast.items())), FEWEST_PATIENTS)
        for name, contrast in contrasts.items()
    }


def expected(truth: Mapping[str, float], contrast: Mapping[str, float]) -> float:
    """Return the true value of a contrast."""
    return sum(c * truth[regime] for regime, c in contrast.items())


@dataclass(frozen=True)
class Calibration:
    """Shares of studies, and the minimal detectable effect that the studies state."""

    covered: dict[str, float]  # by contrast, and of the baseline's own AUROC: the 95 % interval holds the truth
    rejected: float  # Holm rejects at least one true null of the confirmatory family
    detectable: dict[int | None, float]  # of PLANTED, by size of the family; root mean square over studies


def check_intervals(scenario: Scenario, k: int, g: int, studies: int, resamples: int) -> Calibration:
    """Simulate many studies without a planted effect; the effect of a fixed synthetic set is part of the truth."""
    covered: dict[str, list[bool]] = {name: [] for name in (*CONTRASTS, OWN)}
    rejected, effects = [], {family: [] for family in TESTS}
    with progress.bar(studies, f"{g} GAN seed(s)", "study") as bar:
        for number in range(studies):
            study = draw(scenario, REGIMES, k, g, {}, derive_seed(number, "study", k, g))
            values = aurocs(study, resamples, number)
            estimated, p = estimates(values, CONTRASTS), []
            for name, e in estimated.items():
                truth = expected(study.truth, CONTRASTS[name])
                covered[name].append(e.low <= truth <= e.high)
                if name in FAMILY:
                    p.append(statistics.family_p(replace(e, value=e.value - truth)))
            own = statistics.crossed_estimate(values["baseline"], FEWEST_PATIENTS)
            low, high = statistics.share_interval(own, FEWEST_PATIENTS)
            covered[OWN].append(low <= study.truth["baseline"] <= high)
            rejected.append(min(statistics.holm(p)) < ALPHA)
            for family in TESTS:
                effects[family].append(statistics.detectable_effect(estimated[PLANTED], family))
            bar.update()
    return Calibration(
        {name: float(np.mean(held)) for name, held in covered.items()},
        float(np.mean(rejected)),
        {family: float(np.mean(np.square(stated))) ** 0.5 for family, stated in effects.items()},
    )


def check_power(
    scenario: Scenario, effect: float, family: int | None, k: int, g: int, studies: int, resamples: int
) -> float:
    """Return how often a planted effect of gan over baseline is detected; a fixed set has exactly this effect."""
    if g < statistics.FEWEST_GAN_SEEDS:
        scenario = replace(scenario, gan=0)
    up = min(effect / 2, 0.02)  # there is little room above .95
    contrast, shift, hits = {PLANTED: CONTRASTS[PLANTED]}, {"gan": up, "baseline": up - effect}, 0
    with progress.bar(studies, f"{effect:.4f} planted", "study") as bar:
        for number in range(studies):
            study = draw(scenario, shift, k, g, shift, derive_seed(number, "planted", k, g))
            planted = estimates(aurocs(study, resamples, number), contrast)[PLANTED]
            hits += planted.p < ALPHA if family is None else statistics.family_p(planted) < ALPHA / family
            bar.update()
    return hits / studies


def main() -> None:
    """Print coverage, family error and power of each scenario as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="per scenario and number of GAN seeds")
    parser.add_argument(
        "--resamples", type=int, default=100, help="of patients, in each study (an ablation takes 2,000)"
    )
    parser.add_argument("--trial-seeds", type=int, default=5)
    parser.add_argument("--gan-seeds", default="1,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    args = parser.parse_args()
    begin, k, sizes = time.perf_counter(), args.trial_seeds, (args.studies, args.resamples)
    errors = (100 * (p * (1 - p) / args.studies) ** 0.5 for p in (0.95, statistics.POWER))
    print(f"{args.studies} studies a line, {k} trial seeds, {args.resamples} resamples")
    print("Monte Carlo standard error: {:.1f} points of coverage, {:.1f} of power\n".format(*errors))
    powers = ("power, unadjusted", "power, Holm")
    print("| scenario | GAN seeds |", " | ".join([*CONTRASTS, OWN, "family error", *powers]), "|")
    print("| --- | ---: |" + " ---: |" * (len(CONTRASTS) + 2 + len(powers)))
    for name in args.scenarios.split(","):
        for g in map(int, args.gan_seeds.split(",")):
            checked = check_intervals(SCENARIOS[name], k, g, *sizes)
            cells = [f"{100 * share:.1f}" for share in (*checked.covered.values(), checked.rejected)]
            for family, effect in checked.detectable.items():
                power = check_power(SCENARIOS[name], effect, family, k, g, *sizes)
                cells.append(f"{100 * power:.0f} (+{effect:.4f})".replace("0.", "."))
            print(f"| {name} | {g} |", " | ".join(cells), "|", flush=True)
    print(f"\n{(time.perf_counter() - begin) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
