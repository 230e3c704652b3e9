"""What a report says of the pretraining that the trials of a study began with."""

from __future__ import annotations

from collections.abc import Iterable

from balancer.reporting.numbers import listed
from classifier.analysis.results import TrialResult
from classifier.training.regimes import REGIMES

NAMES = {"simsiam": "SimSiam (Chen & He 2021)", "vicreg": "VICReg (Bardes et al. 2022)"}


def describe(trials: Iterable[TrialResult]) -> str | None:
    """Return a sentence on how the networks were pretrained; None if they were not."""
    facts = next((trial.pretraining for trial in trials if trial.pretraining is not None), None)
    if facts is None:
        return None
    return (
        f"The networks were pretrained by {NAMES[facts.method]}: {facts.steps:,} steps of {facts.batch_size} of the"
        f" {facts.images:,} real training images, without labels, synthetic images, validation or test. All regimes of"
        " a trial seed began with the same weights."
    )


def notes(trials: Iterable[TrialResult]) -> list[str]:
    """Return what a reader must know of the pretraining: what it was, where pairs are broken, where nothing was learnt.

    Two machines that do not share a cache can give one seed weights that differ in the last digits.
    """
    of_seed: dict[int, set[str]] = {}
    collapsed, stated = set[int](), []
    for trial in trials:
        facts = trial.pretraining
        if facts is None or REGIMES[trial.regime].seed_offset:
            continue
        stated.append(trial)
        of_seed.setdefault(trial.trial_seed, set()).add(facts.weights)
        if facts.collapsed:
            collapsed.add(trial.trial_seed)
    said = [sentence] if (sentence := describe(stated)) else []
    if broken := sorted(seed for seed, weights in of_seed.items() if len(weights) > 1):
        said.append(
            f"The trials of {_seeds(broken)} began with several sets of pretrained weights, so their regimes are not"
            " quite paired; let all workers share one BALANCER_CACHE."
        )
    if collapsed:
        said.append(f"The pretraining of {_seeds(sorted(collapsed))} collapsed: its outputs are nearly alike.")
    return said


def _seeds(numbers: list[int]) -> str:
    return f"trial seed{'s' if len(numbers) > 1 else ''} {listed([str(number) for number in numbers])}"
