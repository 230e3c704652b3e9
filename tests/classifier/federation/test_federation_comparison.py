"""The statistics of a federation: means over sites, paired contrasts, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest
from fake_study import IMAGE_FOLDS, LABELS, PATIENTS, fake_predictions, fake_trial
from sklearn.metrics import roc_auc_score

from balancer.core.errors import BalancerError
from classifier.analysis.results import TrialResult
from classifier.analysis.statistics import detectable_effect
from classifier.federation import figures
from classifier.federation.comparison import FAMILY, NOT_COMPARED, compare

RESAMPLES, SEEDS, SITES = 50, 3, 2


def drawn(apart: dict[str, float], seeds: int = SEEDS) -> list[TrialResult]:
    """Trials of each way of training, with scores whose classes lie so far apart; the same noise for all of them."""
    rng, trials = np.random.default_rng(3), []
    hard = rng.normal(size=len(LABELS))
    for seed in range(seeds):
        for site in range(SITES):
            own = 0.2 * rng.normal(size=len(LABELS))
            for name, distance in apart.items():
                if name == "pooled" and site:
                    continue
                score = 1 / (1 + np.exp(-(distance * (LABELS - 0.5) + hard + own)))
                place = None if name == "pooled" else site
                folder = f"trials/{name}-{seed}/site-{place}"
                predictions = fake_predictions(LABELS, IMAGE_FOLDS, score)
                trials.append(fake_trial(name, seed, predictions=predictions, site=place, folder=folder))
    return trials


def auroc(trial: TrialResult) -> float:
    p = trial.predictions["test"]
    return float(roc_auc_score(p.y_true, p.y_score))


def test_a_figure_is_the_mean_over_the_sites_of_a_seed() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9})
    comparison = compare(trials, PATIENTS, resamples=RESAMPLES)
    for arm in comparison.arms:
        of_arm = [t for t in trials if t.regime == arm.arm]
        assert arm.metrics["auroc"].mean == pytest.approx(np.mean([auroc(t) for t in of_arm]))
        by_seed = [np.mean([auroc(t) for t in of_arm if t.trial_seed == s]) for s in range(SEEDS)]
        assert arm.metrics["auroc"].sd == pytest.approx(np.std(by_seed, ddof=1))
        for site, summary in arm.by_site.items():
            assert summary.mean == pytest.approx(np.mean([auroc(t) for t in of_arm if t.site == site]))


def test_contrasts_are_paired_and_adjusted_together() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9, "fedprox": 1.9})
    comparison = compare(trials, PATIENTS, resamples=RESAMPLES)
    assert [c.name for c in comparison.planned] == [
        "fedavg - alone",
        "fedprox - alone",
        "fedavg - pooled",
        "fedprox - pooled",
    ]
    assert [c.name for c in comparison.contrasts if c.contrast.family != FAMILY] == [
        "pooled - alone",
        "fedprox - fedavg",
    ]
    mean = {a.arm: a.metrics["auroc"].mean for a in comparison.arms}
    for c in comparison.contrasts:
        left, right = c.name.split(" - ")
        assert c.estimate.value == pytest.approx(mean[left] - mean[right])
    raw = sorted(c.p for c in comparison.planned if c.p is not None)
    adjusted = sorted(c.p_holm for c in comparison.planned if c.p_holm is not None)
    assert adjusted[0] == pytest.approx(min(1.0, 4 * raw[0]))
    assert all(c.p_holm is None for c in comparison.contrasts if c.contrast.family != FAMILY)


def test_what_each_site_gains() -> None:
    """Of one site alone, in place of the mean over sites; exploratory, so without a corrected p-value."""
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9})
    comparison = compare(trials, PATIENTS, resamples=RESAMPLES)
    mean = {
        (name, site): np.mean([auroc(t) for t in trials if (t.regime, t.site) == (name, site)])
        for name, site in {(t.regime, t.site) for t in trials}
    }
    for site in range(SITES):
        pooled, fedavg = comparison.at_sites[site]
        assert (pooled.name, fedavg.name) == (f"pooled - alone at site {site}", f"fedavg - alone at site {site}")
        assert pooled.estimate.value == pytest.approx(mean["pooled", None] - mean["alone", site])
        assert fedavg.estimate.value == pytest.approx(mean["fedavg", site] - mean["alone", site])
        assert fedavg.p_holm is None
    assert not any("hide a loss" in note for note in comparison.notes), "both sites gain"


def test_a_mean_over_a_gain_and_a_loss_is_said() -> None:
    strong = drawn({"alone": 3.0, "fedavg": 2.0, "pooled": 2.0})
    weak = drawn({"alone": 0.5, "fedavg": 2.0, "pooled": 2.0})
    trials = [t for t in strong if t.site == 0 or t.site is None] + [t for t in weak if t.site == 1]
    (note,) = (n for n in compare(trials, PATIENTS, resamples=RESAMPLES).notes if "hide a loss" in n)
    assert "Above alone at some sites and below it at others: fedavg and pooled." in note


def test_a_clear_gain_is_said_so_and_none_too() -> None:
    comparison = compare(drawn({"pooled": 3.0, "alone": 0.5, "fedavg": 3.0}), PATIENTS, resamples=RESAMPLES)
    assert comparison.verdict.startswith("fedavg: against each site alone, a gain (+.")
    assert "against pooled data, no difference above .01" in comparison.verdict
    assert comparison.to_json()["headline"] == comparison.headline


def test_one_seed_settles_nothing() -> None:
    comparison = compare(drawn({"pooled": 3.0, "alone": 0.5, "fedavg": 3.0}, seeds=1), PATIENTS, resamples=RESAMPLES)
    assert "against each site alone, not settled" in comparison.verdict


def test_a_seed_without_all_sites_is_left_out() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9}, seeds=4)
    lost = [t for t in trials if not (t.regime == "fedavg" and t.site == 1 and t.trial_seed == 2)]
    comparison = compare(lost, PATIENTS, resamples=RESAMPLES)
    assert {c.name: c.estimate.n_trial_seeds for c in comparison.contrasts} == {
        "fedavg - alone": 3,
        "fedavg - pooled": 3,
        "pooled - alone": 4,
    }
    assert any("left out of fedavg" in note for note in comparison.notes)


def test_a_site_that_is_lost_in_every_seed_leaves_no_mean_over_the_others() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9, "fedprox": 1.9})
    comparison = compare([t for t in trials if (t.regime, t.site) != ("fedavg", 1)], PATIENTS, resamples=RESAMPLES)
    fedavg = next(arm for arm in comparison.arms if arm.arm == "fedavg")
    assert (fedavg.trial_seeds, fedavg.metrics, list(fedavg.by_site)) == (0, {}, [0])
    assert [c.name for c in comparison.contrasts] == ["fedprox - alone", "fedprox - pooled", "pooled - alone"]
    assert any("left out of fedavg" in note for note in comparison.notes)
    assert [label.get_text() for label in figures.by_site(comparison).axes[0].get_yticklabels()] == [
        "pooled",
        "alone",
        "fedprox",
    ]


def test_where_every_algorithm_has_lost_a_site_the_answer_says_so() -> None:
    trials = [t for t in drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9}) if (t.regime, t.site) != ("fedavg", 0)]
    comparison = compare(trials, PATIENTS, resamples=RESAMPLES)
    assert comparison.planned == []
    assert comparison.verdict == NOT_COMPARED


def test_the_detectable_effect_is_of_the_tests_that_were_made() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9, "fedprox": 1.9})
    lost = [t for t in trials if not (t.regime == "fedavg" and t.site == 1 and t.trial_seed == 2)]
    tested = [c for c in compare(lost, PATIENTS, resamples=RESAMPLES).planned if c.p_holm is not None]
    assert [c.name for c in tested] == ["fedprox - alone", "fedprox - pooled"]  # fedavg has two trial seeds left
    assert [c.mde for c in tested] == [detectable_effect(c.estimate, 2) for c in tested]


def test_trials_of_other_images_are_refused() -> None:
    trials = drawn({"pooled": 2.0, "alone": 1.0, "fedavg": 1.9})
    with pytest.raises(BalancerError, match="split_hash"):
        compare([replace(trials[0], split_hash="other"), *trials[1:]], PATIENTS, resamples=RESAMPLES)
