"""The answer at the head of a page: each sentence has figures that make it true, and figures that make it false."""

from pathlib import Path

import pytest

from classifier.analysis.results import MetricSummary
from classifier.analysis.runs import RunFacts
from classifier.experiments import components, ensemble, thresholds
from classifier.experiments.components import FULL, Difference, VariantResult
from classifier.experiments.ensemble import EnsembleMetric, EnsembleResult
from classifier.experiments.thresholds import ArmThresholds, Hindsight, MeanSd, RuleResult, ThresholdResults


def ensemble_of(name: str, gain: tuple[float, float, float]) -> EnsembleResult:
    metric = EnsembleMetric(0.9, 0.85, 0.95, 0.88, 0.01, *gain)
    return EnsembleResult(name, ["a", "b"], ["gan"], 1.0, 0.5, 0.5, {"auroc": metric})


UP, DOWN, OPEN = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.02, -0.01, 0.05)


@pytest.mark.parametrize(
    ("gains", "text"),
    [
        ([OPEN], "is not shown to change the test AUROC in any of 1 ensemble."),
        ([UP, OPEN], "raises the test AUROC in 1 of 2 ensembles"),
        ([UP, DOWN], "raises the test AUROC in 1 of 2 ensembles and lowers the test AUROC in 1 of 2 ensembles"),
        ([DOWN, DOWN], "Averaging lowers the test AUROC in 2 of 2 ensembles"),
    ],
)
def test_ensembles(gains: list[tuple[float, float, float]], text: str) -> None:
    assert text in ensemble.verdict([ensemble_of(str(i), gain) for i, gain in enumerate(gains)])


def test_an_ensemble_beside_its_members() -> None:
    words = ensemble.headline(ensemble_of("gan", UP))
    assert words == "gan: AUROC .900 [.850, .950], single members .880 ± .010, gain +.020 [.010, .030]."


def variant(name: str, low: float, high: float, p: float | None = 0.01) -> VariantResult:
    difference = {} if name == FULL else {"auroc": Difference((low + high) / 2, low, high, p)}
    return VariantResult(name, {"auroc": MetricSummary(0.9, 0.01, 0.85, 0.95)}, difference, 5 if p is not None else 2)


@pytest.mark.parametrize(
    ("variants", "text"),
    [
        ([variant("a", 0.01, 0.03), variant("b", -0.03, -0.01)], "Test AUROC: a raises; b lowers it"),
        ([variant("a", 0.01, 0.03), variant("b", -0.01, 0.02)], "Test AUROC: a raises it"),
        ([variant("a", -0.01, 0.03)], "No component is shown to change the test AUROC"),
        ([variant("a", 0.01, 0.03, None)], "Not settled: no claim can rest on 2 trial seeds"),
        ([variant("threshold", 0.0, 0.0, None)], "No component of this system could be compared by AUROC."),
        ([], "No component of this system could be compared by AUROC."),
    ],
)
def test_components(variants: list[VariantResult], text: str) -> None:
    assert components.verdict([variant(FULL, 0, 0), *variants]).startswith(text)


def test_a_component_that_changes_no_auroc_has_no_sentence() -> None:
    entries = [variant(FULL, 0, 0), variant("a", 0.01, 0.03), variant("threshold", 0, 0)]
    assert components.headlines(entries) == ["a: +.020 AUROC [.010, .030]"]


def results_of(*arms: tuple[str, str, float, float]) -> ThresholdResults:
    """Arms with a rule, what it gives on test, and the best of the test curve."""

    def arm(name: str, rule: str, reached: float, best: float) -> ArmThresholds:
        fold = {"balanced_accuracy": MetricSummary(reached, None, None, None)}
        result = RuleResult(rule, MeanSd(0.5, None), fold, fold, {})
        return ArmThresholds(name, 3, 0, {}, [result], Hindsight(MeanSd(0.5, None), MeanSd(best, None)))

    return ThresholdResults(RunFacts("data", [], 10, 10, "counts", Path()), [], [arm(*a) for a in arms])


@pytest.mark.parametrize(
    ("arms", "text"),
    [
        (
            [("a", "youden", 0.70, 0.72), ("b", "balanced_accuracy", 0.70, 0.75)],
            "up to .050 balanced accuracy too much (b)",
        ),
        ([("a", "youden", 0.72, 0.72)], "would claim no more balanced accuracy"),
        ([("a", "half", 0.70, 0.75)], "No rule here aims at balanced accuracy"),
    ],
)
def test_thresholds(arms: list[tuple[str, str, float, float]], text: str) -> None:
    assert text in thresholds.verdict(results_of(*arms))
