"""Contrasts: which differences between arms a study can estimate, and what was estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from balancer.core.files import JsonObject
from classifier.analysis.image_tests import DeLong, McNemar
from classifier.analysis.results import StudyResults
from classifier.analysis.statistics import (
    FEWEST_GAN_SEEDS,
    UNPOOLED,
    Estimate,
    SeedScatter,
    crossed_estimate,
    pooled_scatter,
)
from classifier.training.regimes import GROUPS, REGIMES

Array = np.ndarray
CONFIRMATORY = (("gan", "baseline"), ("combined", "augment"), ("gan", "duplicate"), ("combined", "duplicate_augment"))
POOLED = tuple(dict.fromkeys(regime for pair in CONFIRMATORY for regime in pair))
# Whether synthetic images do better where being synthetic tells little of the class: each way against the usual one,
# and against no synthetic images at all.
WAYS = ("gan_both", "gan_both_added", "gan_pretrain", "gan_mixup", "gan_filtered")
SHORTCUT = (
    *((way, reference) for way in WAYS for reference in ("gan", "baseline")),
    *((f"{way}_augment", reference) for way in WAYS for reference in ("combined", "augment")),
)
# Regimes whose scatter over seeds is pooled. A contrast takes the first pool that has its regimes.
POOLS = (POOLED, tuple(dict.fromkeys([*POOLED, *(regime for pair in SHORTCUT for regime in pair)])))
ADJUSTED = ("confirmatory", "shortcut", "federated")  # families that Holm's correction covers, each by itself
INTERACTION = "interaction"
FACTORIAL = {
    "main effect of synthetic images": {"gan": 0.5, "combined": 0.5, "baseline": -0.5, "augment": -0.5},
    "main effect of augmentation": {"augment": 0.5, "combined": 0.5, "baseline": -0.5, "gan": -0.5},
    INTERACTION: {"combined": 1.0, "augment": -1.0, "gan": -1.0, "baseline": 1.0},
}


@dataclass(frozen=True)
class Contrast:
    """The definition of a contrast: a weighted sum of the endpoint of arms, which is the test AUROC."""

    name: str
    family: str  # confirmatory, shortcut, factorial, exploratory, check, dose, federated
    coefficients: dict[str, float]  # by arm
    left: str | None = None  # the two regimes of a plain difference
    right: str | None = None
    dose: float | None = None

    @property
    def is_confirmatory(self) -> bool:
        """Return whether the contrast is of the four tests that every study plans."""
        return self.family == "confirmatory"

    @property
    def is_adjusted(self) -> bool:
        """Return whether Holm's correction covers the contrast."""
        return self.family in ADJUSTED

    @property
    def uses_synthetic(self) -> bool:
        """Return whether an arm, ``gan`` or ``gan@0.5``, uses synthetic images; a site of a federation does not."""
        regimes = (REGIMES.get(arm.split("@")[0]) for arm in self.coefficients)
        return any(regime is not None and regime.synthetic for regime in regimes)


@dataclass(frozen=True)
class ContrastResult:
    """What a study shows about a contrast. Fewer than three trial seeds give an estimate, but no test."""

    contrast: Contrast
    estimate: Estimate
    p: float | None  # unadjusted; None for too few trial seeds
    p_holm: float | None  # None unless the contrast is of an adjusted family and was tested
    mde: float | None  # minimal detectable effect; None without a test, or without any scatter
    verdict: str
    delong: DeLong | None = None  # image-level references; None for sums of more than two arms
    mcnemar: McNemar | None = None
    endpoint: str = "AUROC"  # what the contrast is of, in words: macro AUROC with more than two classes

    @property
    def name(self) -> str:
        """Return the name of the contrast."""
        return self.contrast.name

    @property
    def gan_seeds(self) -> int:
        """Return the number of synthetic sets that the estimate rests on; 0 if no arm uses synthetic images."""
        return self.estimate.n_gan_seeds if self.contrast.uses_synthetic else 0

    @property
    def claims_the_gan(self) -> bool:
        """Return whether there are enough synthetic sets for a claim about the GAN that made them."""
        return self.gan_seeds >= FEWEST_GAN_SEEDS

    def to_json(self) -> JsonObject:
        """Return the result without its sentence, as it stands in ``analysis.json`` and ``table.json``."""
        c, e = self.contrast, self.estimate
        variances = ("patients", "trial_seeds", "gan_seeds", "counted_twice")
        return {
            **vars(c),
            **{key: getattr(e, key) for key in ("low", "high", "se", "df", "seed_sd")},
            **{key: getattr(self, key) for key in ("p", "p_holm", "gan_seeds", "mde", "verdict")},
            "estimate": e.value,
            "trial_seeds": e.n_trial_seeds,
            "variance": {key: getattr(e, key) for key in variances},
            "delong": self.delong._asdict() if self.delong else None,
            "mcnemar": self.mcnemar._asdict() if self.mcnemar else None,
        }


def pool_of(coefficients: Mapping[str, float]) -> tuple[str, ...]:
    """Return the regimes whose scatter over seeds counts for a weighted sum of arms; a dose counts as its regime.

    There are none for a sum that is no contrast: what seeds do to all regimes alike cancels in a contrast only. Nor are
    there any for other regimes than those of :data:`POOLS`, which may scatter in other ways.
    """
    regimes = {arm.split("@")[0] for arm in coefficients}
    is_contrast = sum(coefficients.values()) == 0
    return next((pool for pool in POOLS if is_contrast and regimes.issubset(pool)), ())


def scatter_over_seeds(values: Mapping[str, Array]) -> SeedScatter:
    """Return how much seeds scatter in a study.

    Args:
        values: a metric of each arm of a pool, (1 + resamples, trial seeds, synthetic sets).
    """
    if not values:
        return UNPOOLED
    return pooled_scatter(np.stack(list(values.values()), axis=1), [REGIMES[arm].synthetic for arm in values])


def estimate_sum(
    coefficients: Mapping[str, float],
    values: Mapping[str, Array],
    patients: int,
    scatter: SeedScatter = UNPOOLED,
    most: float | None = 1.0,
) -> Estimate:
    """Estimate a weighted sum of arms.

    Args:
        coefficients: by arm.
        values: a metric of each arm, (1 + resamples, trial seeds, synthetic sets).
        patients: number in the class that has fewer.
        scatter: of :func:`scatter_over_seeds`, for the regimes of :func:`pool_of`; else it does not count.
        most: the largest value of the metric, whose smallest is 0; the sum then lies within its coefficients of one
            sign. None: there is no largest value.
    """
    total = sum(coefficients.values())
    gains = sum(weight for weight in coefficients.values() if weight > 0)
    if pool_of(coefficients):
        synthetic = [arm for arm in coefficients if REGIMES[arm.split("@")[0]].synthetic]
        squares = sum(weight**2 for weight in coefficients.values())
        scatter = scatter.of_contrast(squares, [coefficients[arm] for arm in synthetic])
    else:
        scatter = UNPOOLED
    first, *others = [weight * values[arm] for arm, weight in coefficients.items()]
    limit = None if most is None else most * max(gains, gains - total)
    return crossed_estimate(sum(others, first), patients, scatter, limit)


def possible_contrasts(results: StudyResults) -> list[Contrast]:
    """Return the contrasts whose arms the study has, family by family."""
    regimes = set(results.regimes)
    contrasts = [_difference("confirmatory", *pair) for pair in CONFIRMATORY if regimes.issuperset(pair)]
    contrasts += [_difference("shortcut", *pair) for pair in SHORTCUT if regimes.issuperset(pair)]
    contrasts += [Contrast(n, "factorial", c) for n, c in FACTORIAL.items() if regimes.issuperset(c)]
    contrasts += [_difference("exploratory", *pair) for pair in _exploratory() if regimes.issuperset(pair)]
    checks = [(name, "baseline") for name in GROUPS["checks"]]
    contrasts += [_difference("check", *pair) for pair in checks if regimes.issuperset(pair)]
    doses = {(trial.regime, trial.dose) for trial in results.trials if not trial.is_main}
    for regime, dose in sorted((regime, dose) for regime, dose in doses if dose is not None):
        reference = REGIMES[regime].reference
        if reference in regimes:
            arm = f"{regime}@{dose:g}"
            coefficients = {arm: 1.0, reference: -1.0}
            contrasts.append(Contrast(f"{arm} - {reference}", "dose", coefficients, regime, reference, dose))
    return contrasts


def _difference(family: str, left: str, right: str) -> Contrast:
    return Contrast(f"{left} - {right}", family, {left: 1.0, right: -1.0}, left, right)


def _exploratory() -> list[tuple[str, str]]:
    """Return what a referee asks next: augmentation, both together, each control, the GAN against cheap controls."""
    controls = [REGIMES[name] for name in GROUPS["controls"]]
    pairs = [("augment", "baseline"), ("combined", "baseline"), *((c.name, c.reference) for c in controls)]
    pairs += [("combined" if c.augment else "gan", c.name) for c in controls if not c.synthetic]
    for twin in ("", "_augment"):  # what class balance and copies alone do, beside synthetic images in every class
        pairs += [(f"{name}{twin}", REGIMES[f"{name}{twin}"].reference) for name in ("duplicate_both", "undersample")]
        pairs += [(f"gan_both{twin}", f"{name}{twin}") for name in ("duplicate_both", "undersample")]
    return [pair for pair in pairs if pair not in CONFIRMATORY]
