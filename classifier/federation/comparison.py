"""What a simulated federation shows: training together against each site alone and against pooled data.

Sites are a fixed choice: the figure of training together, or of a site alone, is the mean over the sites of a trial
seed, each site with its own threshold. Trial seeds and test patients vary, as in an ablation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from balancer.core.files import JsonObject
from balancer.metrics.resampling import RESAMPLES
from balancer.reporting.numbers import bounds, listed, signed
from classifier.analysis import statistics, verdicts
from classifier.analysis.analyse import ResampledStudy, contrast_results, counts_of
from classifier.analysis.contrasts import Contrast, ContrastResult
from classifier.analysis.results import MetricSummary, StudyResults, TrialResult, check_same_images
from classifier.evaluation.thresholds import BOUND_NOTE, is_at_bound
from classifier.federation.simulation import ALONE, POOLED
from classifier.report.tables import layout_of

FAMILY = "federated"  # of the planned contrasts, which Holm's correction covers
NOT_COMPARED = "No algorithm could be compared: in no trial seed did all of its sites stay to the end."


@dataclass(frozen=True)
class ArmSummary:
    """The test metrics of one way of training, over its trial seeds."""

    arm: str
    trial_seeds: int
    metrics: dict[str, MetricSummary]
    by_site: dict[int, MetricSummary]  # the endpoint of each site; nothing for pooled data


@dataclass(frozen=True)
class Comparison:
    """Everything that the trials of a simulated federation show."""

    arms: list[ArmSummary]
    contrasts: list[ContrastResult]
    at_sites: dict[int, list[ContrastResult]]  # every other way of training against alone, at one site; exploratory
    notes: list[str]
    n_test: int
    test_counts: dict[str, int]
    endpoint: str

    @property
    def planned(self) -> list[ContrastResult]:
        """Return the contrasts that Holm's correction covers."""
        return [c for c in self.contrasts if c.contrast.family == FAMILY]

    @property
    def headline(self) -> list[str]:
        """Return a sentence per planned contrast."""
        return [verdicts.sentence(c) for c in self.planned]

    @property
    def verdict(self) -> str:
        """Return in a sentence per algorithm what training together brings."""
        by_algorithm: dict[str, list[str]] = {}
        for c in self.planned:
            algorithm, _, other = c.name.partition(" - ")
            by_algorithm.setdefault(algorithm, []).append(_clause(c, other))
        return " ".join(f"{name}: {'; '.join(clauses)}." for name, clauses in by_algorithm.items()) or NOT_COMPARED

    def to_json(self) -> JsonObject:
        """Return the comparison as it stands in ``federation.json``."""
        return {
            "verdict": self.verdict,
            "headline": self.headline,
            "arms": [asdict(arm) for arm in self.arms],
            "contrasts": _as_json(self.contrasts),
            "at_sites": {str(site): _as_json(of_site) for site, of_site in self.at_sites.items()},
            "notes": self.notes,
            "n_test": self.n_test,
            "test_counts": self.test_counts,
        }


def compare(
    trials: Sequence[TrialResult], patients: list[str], seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Compare the ways of training; a trial seed counts in a contrast if all sites of both sides are there.

    Args:
        trials: of pooled data, of each site alone and of each algorithm.
        patients: of every image of the data set.
        seed: of the resamples of test patients.
        resamples: their number.

    Raises:
        BalancerError: the trials are of different images.
    """
    check_same_images({t.folder: [t] for t in trials}, folds=("test",))
    every_site = sorted({t.site for t in trials if t.site is not None})
    sites = {t.regime: [] if t.site is None else every_site for t in trials}
    means = {name: _mean_of(name, of_arm) for name, of_arm in sites.items()}
    # A site that an algorithm has lost in every seed is an arm without trials: no mean may pass over the site.
    arms: dict[str, list[TrialResult]] = {arm: [] for mean in means.values() for arm in mean}
    for trial in trials:
        arms[_arm(trial.regime, trial.site)].append(trial)
    results = StudyResults(arms, patients)
    study = ResampledStudy(results, resamples, seed)
    contrasts = _estimated_contrasts(_contrasts(means), study)
    at_sites = {site: _estimated_contrasts(_contrasts_at(site, means), study) for site in every_site}
    summaries = [_summary(name, means[name], sites[name], study) for name in means]
    seeds = {t.trial_seed for t in trials}
    y_true = results.y_true("test")
    left_out = [s.arm for s in summaries if s.trial_seeds < len(seeds)]
    notes = [*_notes(trials, results.unit, len(seeds), left_out), *_unlike_sites(at_sites)]
    return Comparison(
        summaries,
        contrasts,
        at_sites,
        notes,
        len(y_true),
        counts_of(y_true, results.classes),
        layout_of(results.classes).columns["auroc"].title,
    )


def _notes(trials: Sequence[TrialResult], unit: str, seeds: int, left_out: Sequence[str]) -> list[str]:
    """Return the caveats that a reader must have beside the metrics."""
    notes = [
        f"Intervals are over test {unit}s like these and over trainings. The sites, the split and the recipe are held"
        " fixed.",
        "Exploratory contrasts are leads, not findings.",
    ]
    if few := verdicts.too_few_seeds(seeds):
        notes.append(f"Everything here is {few}." if seeds > 1 else f"{few[:1].upper()}{few[1:]}.")
    if bound := sorted({_arm(t.regime, t.site) for t in trials if is_at_bound(t.test.temperature)}):
        notes.append(f"In some trial the temperature of {listed(bound)} lies {BOUND_NOTE}.")
    if left_out:
        notes.append(f"Trial seeds in which a site was lost are left out of {listed(left_out)}.")
    return notes


def _unlike_sites(at_sites: Mapping[int, Sequence[ContrastResult]]) -> list[str]:
    """Return a caveat if training together gains at one site and loses at another: the mean over sites hides it."""
    by_name: dict[str, list[float]] = {}
    for contrasts in at_sites.values():
        for c in contrasts:
            by_name.setdefault(c.name.partition(" - ")[0], []).append(c.estimate.value)
    mixed = [name for name, values in by_name.items() if min(values) < 0 < max(values)]
    if not mixed:
        return []
    return [
        f"A mean over sites can hide a loss. Above {ALONE} at some sites and below it at others: {listed(mixed)}. The"
        " table of what each site gains has the figures."
    ]


def difference(c: ContrastResult) -> str:
    """Return ``+.012 [.004, .020]``."""
    return f"{signed(c.estimate.value)} {bounds(c.estimate.low, c.estimate.high)}"


def _arm(name: str, site: int | None) -> str:
    return name if site is None else f"{name} at site {site}"


def _mean_of(name: str, sites: Sequence[int]) -> dict[str, float]:
    """Return the mean over sites as a weighted sum of arms."""
    return {_arm(name, site): 1 / len(sites) for site in sites} if sites else {name: 1.0}


def _contrasts(means: Mapping[str, Mapping[str, float]]) -> list[Contrast]:
    """Return the planned contrasts, each algorithm against a site alone and against pooled data, then the others."""
    algorithms = [name for name in means if name not in (POOLED, ALONE)]
    planned = [(name, other) for other in (ALONE, POOLED) for name in algorithms]
    others = [(POOLED, ALONE), *((b, a) for i, a in enumerate(algorithms) for b in algorithms[i + 1 :])]
    return [
        _difference(left, right, means, family)
        for pairs, family in ((planned, FAMILY), (others, "exploratory"))
        for left, right in pairs
        if left in means and right in means
    ]


def _contrasts_at(site: int, means: Mapping[str, Mapping[str, float]]) -> list[Contrast]:
    """Return what a site gains by each other way of training, on the shared test set."""
    alone = _arm(ALONE, site)
    return [
        Contrast(f"{name} - {alone}", "exploratory", {_arm(name, None if name == POOLED else site): 1.0, alone: -1.0})
        for name in means
        if name != ALONE and ALONE in means
    ]


def _estimated_contrasts(contrasts: Sequence[Contrast], study: ResampledStudy) -> list[ContrastResult]:
    pairs = [(c, e) for c in contrasts if (e := study.estimate(c.coefficients)) is not None]
    return contrast_results(pairs, study.results)


def _as_json(contrasts: Sequence[ContrastResult]) -> list[JsonObject]:
    return [c.to_json() | {"sentence": verdicts.sentence(c)} for c in contrasts]


def _difference(left: str, right: str, means: Mapping[str, Mapping[str, float]], family: str) -> Contrast:
    coefficients = {**means[left], **{arm: -weight for arm, weight in means[right].items()}}
    return Contrast(f"{left} - {right}", family, coefficients)


def _summary(name: str, mean: Mapping[str, float], sites: Sequence[int], study: ResampledStudy) -> ArmSummary:
    metrics = {metric: s for metric in study.metrics if (s := _estimated(mean, metric, study)) is not None}
    by_site = {s: m for s in sites if (m := _estimated({_arm(name, s): 1.0}, "auroc", study)) is not None}
    return ArmSummary(name, len(study.results.cells(*mean)), metrics, by_site)


def _estimated(coefficients: Mapping[str, float], metric: str, study: ResampledStudy) -> MetricSummary | None:
    e = study.estimate(coefficients, metric)
    if e is None:
        return None
    interval = statistics.metric_interval(metric, e, study.patients, len(study.results.classes))
    return MetricSummary(e.value, e.seed_sd, *interval)


def _clause(result: ContrastResult, other: str) -> str:
    """Return ``against each site alone, a gain (+.031)``."""
    e = result.estimate
    effect = {"helps": f"a gain ({signed(e.value)})", "hurts": f"a loss ({signed(e.value)})"}
    words = {
        "small": f"a difference below {verdicts.short_margin()}",
        "no benefit": f"no difference above {verdicts.short_margin()}",
    }
    against = "each site alone" if other == ALONE else "pooled data"
    return f"against {against}, {effect.get(result.verdict) or words.get(result.verdict, result.verdict)}"
