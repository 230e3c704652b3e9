"""The analysis of a study: test metrics with intervals, contrasts with tests, and a verdict. See docs/statistics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.data.chest import is_chest
from balancer.metrics.resampling import CONFIDENCE, FEWER_RESAMPLES, RESAMPLES, patient_weights, patients_per_class
from classifier.analysis import statistics, verdicts
from classifier.analysis.advice import advice
from classifier.analysis.contrasts import (
    Contrast,
    ContrastResult,
    estimate_sum,
    pool_of,
    possible_contrasts,
    scatter_over_seeds,
)
from classifier.analysis.image_tests import DeLong, McNemar, delong, mcnemar
from classifier.analysis.results import MetricSummary, StudyResults, TrialPredictions, TrialResult, check_same_images
from classifier.analysis.shortcut_answers import brief
from classifier.analysis.shortcuts import MeterResult, meter_results
from classifier.analysis.statistics import FEWEST_TRIAL_SEEDS, Estimate, SeedScatter
from classifier.evaluation.metrics import weighted_metrics, weighted_multiclass_metrics
from classifier.training.regimes import REGIMES

Array = np.ndarray


@dataclass(frozen=True)
class RegimeSummary:
    """The test metrics of a regime, over its complete trial seeds."""

    regime: str
    trials: int
    trial_seeds: int
    gan_seeds: int  # 0 if the regime uses no synthetic images
    metrics: dict[str, MetricSummary]  # by the keys of :func:`resample`


@dataclass(frozen=True)
class Analysis:
    """Everything that the trials of a study show."""

    n_test: int
    n_patients: int | None  # of the test set; None where no patient is known
    test_counts: dict[str, int]  # images by class
    trial_seeds: list[int]
    gan_seeds: int
    resamples: int
    regimes: list[RegimeSummary]
    contrasts: list[ContrastResult]
    verdict: str
    notes: list[str]  # caveats that a reader must have beside the metrics
    unit: str = "patient"  # what intervals resample: "image" where no patient is known
    margin: float = verdicts.MARGIN
    confidence: float = CONFIDENCE
    advice: list[str] = field(default_factory=list)  # what would settle each open confirmatory contrast
    meter: list[MeterResult] = field(default_factory=list)  # do classifiers read being synthetic as a class?

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the labels."""
        return tuple(self.test_counts)

    @property
    def headline(self) -> list[str]:
        """Return a sentence per confirmatory contrast."""
        return [verdicts.sentence(c) for c in self.contrasts if c.contrast.is_confirmatory]

    def metric(self, regime: str, key: str) -> MetricSummary | None:
        """Return a test metric of a regime; None if the study has none."""
        return next((r.metrics.get(key) for r in self.regimes if r.regime == regime), None)

    def to_json(self) -> JsonObject:
        """Return the analysis as it stands in ``analysis.json``."""
        contrasts = [c.to_json() | {"sentence": verdicts.sentence(c)} for c in self.contrasts]
        regimes = [asdict(regime) for regime in self.regimes]
        meter = [result.to_json() for result in self.meter]
        return {**vars(self), "regimes": regimes, "contrasts": contrasts, "meter": meter, "headline": self.headline}


def endpoint_of(classes: Sequence[str]) -> str:
    """Return the primary endpoint in words: of more than two classes the mean of their AUROCs, each against the rest.

    >>> endpoint_of(["benign", "malignant"]), endpoint_of(["normal", "benign", "malignant"])
    ('AUROC', 'macro AUROC')
    """
    return "macro AUROC" if len(classes) > 2 else "AUROC"


def resample(predictions: TrialPredictions, weights: Array, classes: Sequence[str]) -> dict[str, Array]:
    """Return every test metric of a trial (b,) under each row of ``weights`` (b, n).

    NLL, Brier score and ECE are of the calibrated probabilities.
    """
    p = predictions
    if len(classes) > 2:
        chest = is_chest(classes)
        return weighted_multiclass_metrics(p.y_true, p.y_score, p.calibrated, weights, classes, chest)
    return weighted_metrics(p.y_true, p.y_score, p.calibrated, p.threshold, weights)


class ResampledStudy:
    """The test metrics of every trial, on the sample and on resamples of test patients.

    Args:
        results: trials on the same test images.
        resamples: of test patients, the same for every trial.
        seed: of the resamples.

    Raises:
        BalancerError: a class of the test set has fewer than two patients, or a score is not finite.
    """

    def __init__(self, results: StudyResults, resamples: int, seed: int) -> None:
        y_true, patients = results.y_true("test"), results.groups("test")
        classes = results.classes
        weights = patient_weights(y_true, patients, resamples, seed, len(classes))
        for trial in results.trials:
            if not np.isfinite(trial.predictions["test"].y_score).all():
                raise BalancerError(
                    f"{trial.folder}: a test score is not finite; remove the folder and resume the run, or leave the "
                    "trial out"
                )
        self.results = results
        self.patients = min(patients_per_class(y_true, patients, len(classes)))  # of the class that has fewest
        trials = [(arm, trial) for arm, of_arm in results.arms.items() for trial in of_arm]
        self._metrics = {
            (arm, trial.trial_seed, trial.synthetic_set): resample(trial.predictions["test"], weights, classes)
            for arm, trial in progress.each(trials, "resampling test patients", "trial")
        }
        self._scatters: dict[tuple[tuple[str, ...], str], SeedScatter] = {}  # by pool and metric

    @property
    def metrics(self) -> list[str]:
        """Return the keys of the metrics."""
        return list(next(iter(self._metrics.values())))

    def _metric(self, arm: str, trial: TrialResult, metric: str) -> Array:
        return self._metrics[arm, trial.trial_seed, trial.synthetic_set][metric]

    def _values(self, arms: Iterable[str], metric: str) -> dict[str, Array]:
        """Return the metric of each arm, (1 + resamples, trial seeds, synthetic sets); nothing without a full seed."""
        cells = self.results.cells(*arms)
        return {
            arm: np.moveaxis(np.array([[self._metric(arm, t, metric) for t in cell[arm]] for cell in cells]), -1, 0)
            for arm in (arms if cells else ())
        }

    def _scatter(self, pool: tuple[str, ...], metric: str) -> SeedScatter:
        """Return how much seeds scatter in the regimes of a pool that the study has."""
        if (pool, metric) not in self._scatters:
            pooled = [arm for arm in pool if arm in self.results.arms]
            self._scatters[pool, metric] = scatter_over_seeds(self._values(pooled, metric))
        return self._scatters[pool, metric]

    def estimate(self, coefficients: Mapping[str, float], metric: str = "auroc") -> Estimate | None:
        """Return the weighted sum of the arms' metrics; None if no trial seed is complete."""
        values = self._values(list(coefficients), metric)
        if not values:
            return None
        most = statistics.largest_value(metric, len(self.results.classes))
        return estimate_sum(coefficients, values, self.patients, self._scatter(pool_of(coefficients), metric), most)

    def by_seed(self, arms: Sequence[str], metric: str = "auroc") -> dict[int, dict[str, Array]]:
        """Return a metric (1 + resamples, synthetic sets) by complete trial seed and arm; nothing if an arm is missing.

        The first row is the sample itself.
        """
        cells = self.results.cells(*arms) if set(arms).issubset(self.results.arms) else []
        return {
            cell[arms[0]][0].trial_seed: {
                arm: np.stack([self._metric(arm, trial, metric) for trial in cell[arm]], axis=1) for arm in arms
            }
            for cell in cells
        }

    def summary(self, arm: str, metric: str) -> MetricSummary | None:
        """Return mean, SD over trial seeds and 95 % interval of a metric; None if no trial seed is complete."""
        e = self.estimate({arm: 1.0}, metric)
        if e is None:
            return None
        interval = statistics.metric_interval(metric, e, self.patients, len(self.results.classes))
        return MetricSummary(e.value, e.seed_sd, *interval)


def analyse(results: StudyResults, resamples: int = RESAMPLES, seed: int = 0) -> Analysis:
    """Analyse a study.

    Args:
        results: the trials; trials of an unknown regime are ignored.
        resamples: of test patients, the same for every regime and seed.
        seed: of the resamples.

    Raises:
        BalancerError: no trial, trials on different test images, or fewer than two patients in a class.
    """
    results = replace(results, arms={a: trials for a, trials in results.arms.items() if trials[0].regime in REGIMES})
    if not results.trials:
        raise BalancerError("there is no finished trial to analyse; expected at least one line in results.jsonl")
    by_folder = {trial.folder: [trial] for trial in results.trials}
    check_same_images(by_folder, keys=(), folds=("test",), advice="analyse trials of one data set")
    study = ResampledStudy(results, resamples, seed)
    pairs = [(c, e) for c in possible_contrasts(results) if (e := study.estimate(c.coefficients)) is not None]
    contrasts = contrast_results(pairs, results)
    regimes = [_summary(name, study) for name in results.regimes]
    patients, y_true = results.groups("test"), results.y_true("test")
    seeds = sorted({trial.trial_seed for trial in results.trials})
    sets = {trial.synthetic_set for trial in results.trials if REGIMES[trial.regime].synthetic}
    meter = meter_results(results, seed, min(resamples, FEWER_RESAMPLES))
    left_out = sum(r.trials - r.trial_seeds * max(r.gan_seeds, 1) for r in regimes)
    return Analysis(
        n_test=len(patients),
        n_patients=results.test_patients,
        test_counts=counts_of(y_true, results.classes),
        trial_seeds=seeds,
        gan_seeds=len(sets),
        resamples=resamples,
        regimes=regimes,
        contrasts=contrasts,
        verdict=_answer(contrasts, meter),
        notes=verdicts.notes(len(patients), len(set(patients)), len(seeds), len(sets), left_out, results.unit),
        advice=advice(contrasts),
        unit=results.unit,
        meter=meter,
    )


def with_contrasts(analysis: Analysis, contrasts: list[ContrastResult]) -> Analysis:
    """Return the analysis with other contrasts, and what is said of them: the verdict and the advice."""
    verdict = _answer(contrasts, analysis.meter)
    return replace(analysis, contrasts=contrasts, verdict=verdict, advice=advice(contrasts))


def _answer(contrasts: Sequence[ContrastResult], meter: Sequence[MeterResult]) -> str:
    return " ".join(filter(None, [verdicts.answer(contrasts), brief(meter)]))


def counts_of(y_true: Array, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of images of each class by its name, for labels (n,)."""
    return {name: int((y_true == label).sum()) for label, name in enumerate(classes)}


def was_tested(estimate: Estimate) -> bool:
    """Return whether zero can be tested: one or two trial seeds do not show how trial seeds scatter."""
    return estimate.n_trial_seeds >= FEWEST_TRIAL_SEEDS


def contrast_results(pairs: Sequence[tuple[Contrast, Estimate]], results: StudyResults) -> list[ContrastResult]:
    """Return what a study shows about its contrasts; the tests of an adjusted family are one family of Holm."""
    p_holm = _adjusted_p(pairs)
    sizes = Counter(c.family for c, _ in pairs if c.name in p_holm)
    return [_contrast_result(c, e, p_holm.get(c.name), sizes[c.family], results) for c, e in pairs]


def _adjusted_p(pairs: Iterable[tuple[Contrast, Estimate]]) -> dict[str, float]:
    """Return Holm's p by name, of the contrasts of adjusted families that were tested; each family by itself."""
    by_family: dict[str, dict[str, float]] = {}
    for contrast, estimate in pairs:
        if contrast.is_adjusted and was_tested(estimate):
            by_family.setdefault(contrast.family, {})[contrast.name] = estimate.p
    families = by_family.values()
    return {n: p for of in families for n, p in zip(of, statistics.holm(list(of.values())), strict=True)}


def _contrast_result(
    contrast: Contrast, estimate: Estimate, p_holm: float | None, family_size: int, results: StudyResults
) -> ContrastResult:
    """Return what a study shows about a contrast, with its test, verdict and references."""
    tested = was_tested(estimate)
    p = estimate.p if tested else None
    family = family_size if contrast.is_adjusted else None
    of_images = (None, None) if contrast.left is None else _references(contrast, results)
    return ContrastResult(
        contrast=contrast,
        estimate=estimate,
        p=p,
        p_holm=p_holm,
        mde=statistics.detectable_effect(estimate, family) if tested and estimate.se > 0 else None,
        verdict=verdicts.verdict_of(estimate, p_holm if contrast.is_adjusted else p),
        delong=of_images[0],
        mcnemar=of_images[1],
        endpoint=endpoint_of(results.classes),
    )


def _references(contrast: Contrast, results: StudyResults) -> tuple[DeLong, McNemar]:
    """Return DeLong's test of the scores averaged over trials, and McNemar's test of the trials' majority decision.

    With more than two classes the decision is the class that most trials call, and of a tie the first such class.
    """
    cells, y_true = results.cells(*contrast.coefficients), results.y_true("test")
    scores, right = [], []
    for arm in contrast.coefficients:  # left, then right
        trials = {trial.key: trial.predictions["test"] for cell in cells for trial in cell[arm]}.values()
        scores.append(np.mean([p.y_score for p in trials], axis=0))
        right.append(_majority(trials, len(results.classes)) == y_true)
    return delong(y_true, *scores), mcnemar(*right)


def _majority(trials: Iterable[TrialPredictions], classes: int) -> Array:
    """Return the class (n,) that most trials call; of two classes, a tie is called positive."""
    decisions = [p.decisions for p in trials]
    if classes == 2:
        return np.mean(decisions, axis=0) >= 0.5
    votes: Array = np.sum([np.eye(classes)[d] for d in decisions], axis=0)
    return votes.argmax(axis=1)


def _summary(regime: str, study: ResampledStudy) -> RegimeSummary:
    cells = study.results.cells(regime)
    summaries = {metric: study.summary(regime, metric) for metric in study.metrics}
    return RegimeSummary(
        regime=regime,
        trials=len(study.results.arms[regime]),
        trial_seeds=len(cells),
        gan_seeds=len(cells[0][regime]) if cells and REGIMES[regime].synthetic else 0,
        metrics={metric: summary for metric, summary in summaries.items() if summary is not None},
    )
