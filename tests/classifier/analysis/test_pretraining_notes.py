"""What reports say of a pretraining, from trials that nobody ran."""

from dataclasses import replace
from pathlib import Path

from fake_study import fake_trial

from classifier.analysis.pretraining import describe, notes
from classifier.analysis.results import TrialResult
from classifier.training.record import Pretraining

FACTS = Pretraining("simsiam", 2000, 128, 4434, 0.9, "abc", 12.5)


def trial(regime: str = "baseline", seed: int = 0, **changes: object) -> TrialResult:
    return fake_trial(regime, seed, pretraining=replace(FACTS, **changes))


def test_without_pretraining_nothing_is_said_or_written() -> None:
    assert notes([fake_trial()]) == []
    assert describe([fake_trial()]) is None
    assert "pretraining" not in fake_trial().to_json()


def test_a_row_keeps_the_facts() -> None:
    row = trial()
    assert TrialResult.from_json(row.to_json(), Path("results.jsonl")).pretraining == FACTS


def test_what_was_done_is_said_once() -> None:
    (said,) = notes([trial(), trial("augment"), trial(seed=1, weights="d")])
    assert "SimSiam" in said
    assert "2,000 steps of 128 of the 4,434" in said


def test_seeds_that_are_not_paired_are_named() -> None:
    """Another machine with a cache of its own; the regime that is not paired by design is no breach."""
    _, broken = notes([trial(), trial("augment", weights="d"), trial(seed=1), trial("baseline_again", 1, weights="e")])
    assert "trial seed 0 " in broken
    assert "BALANCER_CACHE" in broken


def test_a_collapse_is_named() -> None:
    _, collapsed = notes([trial(seed=s, weights=str(s), spread=0.05 if s else 0.9) for s in range(3)])
    assert "trial seeds 1 and 2 collapsed" in collapsed
