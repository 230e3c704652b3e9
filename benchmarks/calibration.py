"""Check the intervals of an ablation on simulated studies, whose true effects are known in closed form.

Scores are Gaussian: a separation of the classes, plus what makes an image hard. An image can be hard for every
classifier, for one regime, for one synthetic set, or for one training; a patient's images share half of each. The
separation varies with the trial seed (alike for all regimes, and by regime), with the GAN seed, and with both together.
So the expected AUROC is a normal probability. Images and patients are as many as in the official test set, of two
classes or, with --classes 3, of NORMAL, BACTERIAL and VIRAL. Then each class has scores of its own, and the endpoint is
the macro AUROC. Every study goes through classifier.analysis, like the trials of an ablation, except for one thing:
resampled AUROCs are linear in the patients' weights (DeLong's placements), which is some forty times as fast and agrees
within two percent.

    python benchmarks/calibration.py [--studies 1000] [--resamples 200] [--trial-seeds 2,3,5,10] [--gan-seeds 1,3]
    [--scenarios ...] [--regimes ...] [--classes 2] [--sizes 1] [--scatter alike] [--family confirmatory]

With --sizes 5 each study is a learning curve: an ablation at each size, on the same test images, which are hard for the
same reasons. Holm's family then holds the contrasts of all sizes. With --scatter 'fewer images scatter more' trainings
scatter more at the smaller sizes. With --family shortcut the studies have the regimes in which being synthetic tells
little of the class too, and coverage and family error are those of their contrasts.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from balancer.core import progress
from balancer.core.seeding import derive_seed
from balancer.metrics.resampling import patient_weights
from classifier.analysis import statistics
from classifier.analysis.contrasts import (
    CONFIRMATORY,
    FACTORIAL,
    POOLED,
    POOLS,
    SHORTCUT,
    estimate_sum,
    pool_of,
    scatter_over_seeds,
)
from classifier.analysis.statistics import ALPHA, UNPOOLED, Estimate
from classifier.training.regimes import REGIMES

Array = np.ndarray
# Patients with 1, 2, ... images in the official test set, by class: 234 + 390 images of 202 + 202 patients.
PATIENTS_WITH = ({1: 175, 2: 23, 3: 3, 4: 1}, {1: 125, 2: 29, 3: 19, 4: 11, 5: 10, 6: 4, 7: 2, 9: 2})
# The same of the three classes, whose pneumonias are shared out: 234 + 242 + 148 images of 202 + 115 + 87 patients.
PATIENTS_OF_THREE = (
    PATIENTS_WITH[0],
    {1: 68, 2: 17, 3: 10, 4: 6, 5: 6, 6: 4, 7: 2, 9: 2},
    {1: 57, 2: 12, 3: 9, 4: 5, 5: 4},
)
WITHIN_PATIENT = 0.5  # share of every score's variance that a patient's images have in common
# The AUROC of each class that has scores: of two classes one score serves both.
AUROCS = {2: (0.95,), 3: (0.95, 0.9, 0.85)}
UNEVEN = ("baseline", "gan")
FAMILIES = {
    name: {f"{left} - {right}": {left: 1.0, right: -1.0} for left, right in pairs}
    for name, pairs in (("confirmatory", CONFIRMATORY), ("shortcut", SHORTCUT))
}
CONTRASTS = {  # whose coverage is measured
    "confirmatory": {**FAMILIES["confirmatory"], **FACTORIAL},
    "shortcut": FAMILIES["shortcut"],
}
REGIMES_OF = dict(zip(FAMILIES, POOLS, strict=True))  # the confirmatory ones come first: their scores are the same
SAME_RESAMPLES = 10  # studies: drawing patients takes as long as the rest of a study
OWN = "baseline's AUROC"
# A planted effect is looked for by an unadjusted test, or by Holm's first step of four.
UNADJUSTED, HOLM = "power, unadjusted", "power, Holm"
PLANTED = {UNADJUSTED: ("gan", "baseline", 1), HOLM: ("combined", "augment", len(CONFIRMATORY))}


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
    uneven: float = 1.0  # factor on trial_own of baseline and gan: regimes need not scatter alike
    # Share of the variance over GAN seeds that regimes have in common, since they train on the same images. Left out of
    # the text: scenarios without it keep their random numbers.
    gan_shared: float = field(default=0.0, repr=False)


SCENARIOS = {
    "no difference at all": Scenario(0, 0, 0.10, 0.004, 0, 0, 0),
    "patients dominate": Scenario(0.10, 0.02, 0.05, 0.002, 0.001, 0.001, 0.0005),
    "balanced": Scenario(0.05, 0.03, 0.10, 0.004, 0.004, 0.003, 0.002),
    "trial seeds dominate": Scenario(0.03, 0.02, 0.08, 0.006, 0.012, 0.004, 0.004),
    "GAN seeds dominate": Scenario(0.03, 0.03, 0.08, 0.004, 0.004, 0.010, 0.003),
    "two regimes scatter twice as much": Scenario(0.03, 0.02, 0.08, 0.006, 0.008, 0.004, 0.004, uneven=2.0),
    "GAN seeds dominate in all regimes alike": Scenario(0.03, 0.03, 0.08, 0.004, 0.004, 0.010, 0.003, gan_shared=1.0),
}
# Factors on the scatter of trainings at each of five sizes, the smallest first.
SCATTER = {"alike": (1.0,) * 5, "fewer images scatter more": (3.0, 2.0, 1.5, 1.0, 1.0)}


@dataclass(frozen=True)
class Study:
    """The scores of one simulated ablation, and the true endpoints: the mean AUROC of the classes that have scores."""

    y_true: Array  # (n,)
    patient: Array  # (n,)
    scores: dict[str, Array]  # regime -> (classes with scores, K, G or 1, n)
    truth: dict[str, float]  # regime -> expected endpoint; conditional on the synthetic sets where these count as fixed


def patients_with(classes: int) -> tuple[dict[int, int], ...]:
    """Return how many patients have 1, 2, ... test images, by class."""
    return PATIENTS_WITH if classes == 2 else PATIENTS_OF_THREE


def fewest_patients(classes: int) -> int:
    """Return the number of patients of the class that has fewest."""
    return min(sum(counts.values()) for counts in patients_with(classes))


def scored(y_true: Array, classes: int) -> Array:
    """Return which images are of each class that has scores, (classes with scores, n) bool: of two, class 1 alone."""
    labels = [1] if classes == 2 else range(classes)
    return np.stack([y_true == label for label in labels])


def layout(classes: int = 2) -> tuple[Array, Array]:
    """Return class and patient (n,) of every test image."""
    labels, sizes = [], []
    for label, patients in enumerate(patients_with(classes)):
        for size, count in patients.items():
            labels += [label] * count
            sizes += [size] * count
    return np.repeat(labels, sizes), np.repeat(np.arange(len(sizes)), sizes)


def draw(
    scenario: Scenario,
    regimes: Iterable[str],
    k: int,
    g: int,
    shift: Mapping[str, float],
    seed: int,
    classes: int = 2,
    of_images: int | None = None,
) -> Study:
    """Simulate a study of ``k`` trial seeds and ``g`` GAN seeds; ``shift`` adds to the AUROCS of a regime.

    Wherever a regime's AUROC lies, trainings scatter by as much of the AUROC. A seed moves all classes alike. Studies
    with the same ``of_images`` share what makes an image hard for every classifier.
    """
    rng = np.random.default_rng(seed)
    y_true, patient = layout(classes)
    is_positive = scored(y_true, classes)
    columns = len(is_positive)

    def noise(*shape: int, source: np.random.Generator = rng) -> Array:
        by_patient = source.standard_normal((*shape, patient.max() + 1))[..., patient]
        by_image = source.standard_normal((*shape, len(patient)))
        return WITHIN_PATIENT**0.5 * by_patient + (1 - WITHIN_PATIENT) ** 0.5 * by_image

    hard = rng if of_images is None else np.random.default_rng(of_images)
    shared, trial = noise(columns, 1, 1, source=hard), rng.standard_normal((k, 1))
    of_sets = rng.standard_normal(g) if scenario.gan_shared else np.zeros(1)
    scores, truth = {}, {}
    for regime in regimes:
        expected = stats.norm.ppf(np.array(AUROCS[classes]) + shift.get(regime, 0.0))[:, None, None]
        slope = float(stats.norm.pdf(expected).mean()) / 2**0.5  # of the endpoint in the separation, in SDs
        sd = {name: getattr(scenario, name) / slope for name in ("trial", "trial_own", "gan", "gan_trial")}
        sets, used = (g, 1) if REGIMES[regime].synthetic else (1, 0)
        of_gan = (1 - scenario.gan_shared) ** 0.5 * rng.standard_normal(sets)
        gan = used * sd["gan"] * (of_gan + scenario.gan_shared**0.5 * (of_sets if used else 0.0))
        own_sd = sd["trial_own"] * (scenario.uneven if regime in UNEVEN else 1)
        own = own_sd * rng.standard_normal((k, 1)) + used * sd["gan_trial"] * rng.standard_normal((k, sets))
        of_seeds = sd["trial"] ** 2 + own_sd**2 + used * sd["gan_trial"] ** 2
        centre = expected * (2 + of_seeds + used * sd["gan"] ** 2) ** 0.5
        shares = scenario.of_regime, used * scenario.of_set, scenario.of_training
        parts = (noise(columns, 1, 1), noise(columns, 1, sets), noise(columns, k, sets))
        difficulty = (1 - sum(shares)) ** 0.5 * shared + sum(s**0.5 * p for s, p in zip(shares, parts, strict=True))
        separation = centre + sd["trial"] * trial + gan + own
        scores[regime] = separation[..., None] * is_positive[:, None, None] + difficulty
        conditional = stats.norm.cdf((centre + gan) / (2 + of_seeds) ** 0.5).mean()
        fixed = sets < statistics.FEWEST_GAN_SEEDS
        truth[regime] = float(conditional if fixed else stats.norm.cdf(expected).mean())
    return Study(y_true, patient, scores, truth)


@functools.lru_cache(maxsize=1)
def patients_drawn(resamples: int, seed: int, classes: int = 2) -> Array:
    """Return the weights (1 + resamples, n) of the test images."""
    return patient_weights(*layout(classes), resamples, seed, classes)


def aurocs(study: Study, resamples: int, seed: int) -> dict[str, Array]:
    """Return the endpoint (1 + resamples, K, G) of each regime, for the same resamples of patients.

    A resample moves the AUROC by its weights times the images' placements, as in DeLong's variance. Every regime stands
    beside every synthetic set.
    """
    classes = int(study.y_true.max()) + 1
    weights, is_positive = patients_drawn(resamples, seed, classes), scored(study.y_true, classes)
    sets = max(scores.shape[2] for scores in study.scores.values())
    by_regime = {}
    for regime, of_class in study.scores.items():
        resampled = [_auroc(scores, positive, weights) for scores, positive in zip(of_class, is_positive, strict=True)]
        values = np.mean(resampled, axis=0)
        by_regime[regime] = np.broadcast_to(values, (*values.shape[:2], sets))
    return by_regime


def _auroc(scores: Array, positive: Array, weights: Array) -> Array:
    """Return the AUROC (1 + resamples, K, G) of scores (K, G, n)."""
    m, n = int(positive.sum()), int((~positive).sum())
    order = scores.argsort(axis=-1)  # Gaussian scores have no ties
    is_positive = positive[order]
    below, above = (~is_positive).cumsum(axis=-1), m - is_positive.cumsum(axis=-1)
    placement = np.empty(scores.shape)
    np.put_along_axis(placement, order, np.where(is_positive, below, above) / (m * n), axis=-1)
    auroc = placement[..., positive].sum(axis=-1)
    placement -= auroc[..., None] * np.where(positive, 1 / m, 1 / n)
    values: Array = auroc + np.tensordot(weights - 1, placement, axes=(1, 2))
    return values


def estimates(values: Mapping[str, Array], classes: int = 2, family: str = "confirmatory") -> dict[str, Estimate]:
    """Estimate the contrasts whose regimes there are, and the baseline's AUROC, as an ablation does."""
    sums = {name: c for name, c in CONTRASTS[family].items() if set(c).issubset(values)} | {OWN: {"baseline": 1.0}}
    scatter = {(): UNPOOLED} | {
        pool: scatter_over_seeds({regime: of for regime, of in values.items() if regime in pool})
        for pool in POOLS
        if any(pool_of(c) == pool for c in sums.values())
    }
    return {name: estimate_sum(c, values, fewest_patients(classes), scatter[pool_of(c)]) for name, c in sums.items()}


def expected(truth: Mapping[str, float], contrast: Mapping[str, float]) -> float:
    """Return the true value of a contrast."""
    return sum(c * truth[regime] for regime, c in contrast.items())


@dataclass(frozen=True)
class Calibration:
    """Shares of studies, and the minimal detectable effects that the studies state."""

    covered: dict[str, float]  # by contrast, and of the baseline's own AUROC: the 95 % interval holds the truth
    rejected: float  # Holm rejects at least one true null of the family
    detectable: dict[str, float]  # by the keys of PLANTED; root mean square over studies


def check_intervals(
    scenario: Scenario,
    k: int,
    g: int,
    studies: int,
    resamples: int,
    regimes: Sequence[str] = POOLED,
    classes: int = 2,
    scatter: Sequence[float] = (1.0,),
    family: str = "confirmatory",
) -> Calibration:
    """Simulate many studies without a planted effect; the effect of a fixed synthetic set is part of the truth.

    A study has an ablation for each factor of ``scatter`` on the scatter of trainings, all of the same test images.
    """
    sizes = len(scatter)
    covered: dict[str, list[bool]] = {}
    tested = PLANTED if family == "confirmatory" else {}
    rejected: list[bool] = []
    effects: dict[str, list[float]] = {
        test: [] for test, (left, right, _) in tested.items() if {left, right} <= {*regimes}
    }
    with progress.bar(studies, f"{k} trial seeds, {g} GAN seed(s)", "study") as bar:
        for number in range(studies):
            p: list[float] = []
            for size, more in enumerate(scatter):
                names: list[str | int] = ["study", str(scenario), k, g, *([f"size {size}"] if sizes > 1 else [])]
                of_images = derive_seed(number, "images", str(scenario)) if sizes > 1 else None
                of_size = replace(scenario, trial=more * scenario.trial, trial_own=more * scenario.trial_own)
                study = draw(of_size, regimes, k, g, {}, derive_seed(number, *names), classes, of_images)
                estimated = estimates(aurocs(study, resamples, number // SAME_RESAMPLES), classes, family)
                for name, e in estimated.items():
                    truth = expected(study.truth, CONTRASTS[family].get(name, {"baseline": 1.0}))
                    own = name == OWN
                    low, high = statistics.share_interval(e, fewest_patients(classes)) if own else (e.low, e.high)
                    covered.setdefault(name, []).append(low <= truth <= high)
                    if name in FAMILIES[family]:
                        p.append(statistics.mean_p(e.value - truth, e.se, e.shares))
            rejected.append(min(statistics.holm(p)) < ALPHA)
            for test, stated in effects.items():
                left, right, tests = PLANTED[test]
                stated.append(statistics.detectable_effect(estimated[f"{left} - {right}"], tests))
            bar.update()
    return Calibration(
        {name: float(np.mean(held)) for name, held in covered.items()},
        float(np.mean(rejected)),
        {test: float(np.mean(np.square(stated))) ** 0.5 for test, stated in effects.items()},
    )


def check_power(
    scenario: Scenario,
    planted: Mapping[str, float],
    k: int,
    g: int,
    studies: int,
    resamples: int,
    regimes: Sequence[str] = POOLED,
    classes: int = 2,
) -> dict[str, float]:
    """Return how often each planted effect, by the keys of PLANTED, is detected; a fixed set has exactly its effect."""
    if g < statistics.FEWEST_GAN_SEEDS:
        scenario = replace(scenario, gan=0)
    shift: dict[str, float] = {}
    for test, effect in planted.items():
        left, right, _ = PLANTED[test]
        up = min(effect / 2, 0.02)  # there is little room above .95
        shift |= {left: up, right: up - effect}
    hits = dict.fromkeys(planted, 0)
    with progress.bar(studies, f"{k} trial seeds, {g} GAN seed(s), planted", "study") as bar:
        for number in range(studies):
            seed = derive_seed(number, "planted", str(scenario), k, g)
            study = draw(scenario, regimes, k, g, shift, seed, classes)
            estimated = estimates(aurocs(study, resamples, number // SAME_RESAMPLES), classes)
            for test in planted:
                left, right, tests = PLANTED[test]
                hits[test] += estimated[f"{left} - {right}"].p < ALPHA / tests
            bar.update()
    return {test: count / studies for test, count in hits.items()}


def main() -> None:
    """Print coverage, family error and power of each scenario as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="a line")
    parser.add_argument(
        "--resamples", type=int, default=200, help="of patients, in each study (an ablation takes 2,000)"
    )
    parser.add_argument("--trial-seeds", default="2,3,5,10")
    parser.add_argument("--gan-seeds", default="1,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--family", choices=list(FAMILIES), default="confirmatory", help="other than that: no power")
    parser.add_argument("--regimes", help="by default those of the family")
    parser.add_argument("--classes", type=int, choices=list(AUROCS), default=2)
    parser.add_argument(
        "--sizes", type=int, default=1, choices=range(1, 6), help="of a learning curve; above 1 no power is measured"
    )
    parser.add_argument("--scatter", choices=list(SCATTER), default="alike", help="of trainings over sizes")
    args = parser.parse_args()
    begin, sizes = time.perf_counter(), (args.studies, args.resamples)
    regimes = tuple(args.regimes.split(",")) if args.regimes else REGIMES_OF[args.family]
    errors = (100 * (p * (1 - p) / args.studies) ** 0.5 for p in (0.95, statistics.POWER))
    print(f"{args.studies} studies a line, {args.resamples} resamples, {','.join(regimes)}")
    print(f"{args.classes} classes, {args.sizes} size(s), scatter {args.scatter}, family {args.family}")
    print("Monte Carlo standard error: {:.1f} points of coverage, {:.1f} of power\n".format(*errors))
    columns = ("coverage, lowest", "mean", "highest", OWN, "family error", *PLANTED)
    print("| scenario | GAN seeds | trial seeds |", " | ".join(columns), "|")
    print("| --- | ---: | ---: |" + " ---: |" * len(columns))
    lines = itertools.product(args.scenarios.split(","), args.gan_seeds.split(","), args.trial_seeds.split(","))
    for name, g, k in lines:
        of_sizes = SCATTER[args.scatter][: args.sizes]
        checked = check_intervals(SCENARIOS[name], int(k), int(g), *sizes, regimes, args.classes, of_sizes, args.family)
        planted = checked.detectable if args.sizes == 1 else {}
        power = check_power(SCENARIOS[name], planted, int(k), int(g), *sizes, regimes, args.classes)
        covered = [share for contrast, share in checked.covered.items() if contrast != OWN]
        shares = (min(covered), np.mean(covered), max(covered), checked.covered[OWN], checked.rejected)
        cells = [f"{100 * share:.1f}" for share in shares]
        cells += [f"{100 * power[t]:.0f} (+{checked.detectable[t]:.4f})".replace("0.", ".") for t in power]
        cells += ["–"] * (len(PLANTED) - len(power))  # a regime is missing, or there are several sizes
        print(f"| {name} | {g} | {k} |", " | ".join(cells), "|", flush=True)
    print(f"\n{(time.perf_counter() - begin) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
