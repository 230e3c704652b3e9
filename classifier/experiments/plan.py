"""What a study trains: its regimes, and its trials in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from balancer.core.errors import UsageError
from balancer.core.settings import AblateConfig, ClassifierConfig, TrainConfig
from classifier.training.regimes import GROUPS, Regime, select_regimes


@dataclass(frozen=True)
class Trial:
    """One training: a regime, a trial seed and, in regimes with synthetic images, the set and the number of images."""

    regime: Regime
    seed: int
    synthetic_set: int | None = None  # position in the study's list; None in a regime without synthetic images
    dose: float | None = None  # in deficits; None without synthetic images, or where the count is a number

    @property
    def key(self) -> tuple[str, int, str | None, float | None]:
        """Return what identifies the trial in ``results.jsonl``."""
        return self.regime.name, self.seed, None if self.synthetic_set is None else str(self.synthetic_set), self.dose

    @property
    def name(self) -> str:
        """Return the name of the trial's folder: ``combined-0``; with another set and dose ``combined@0.5-set1-0``."""
        dose = "" if self.dose in (None, 1.0) else f"@{self.dose:g}"
        synthetic_set = f"-set{self.synthetic_set}" if self.synthetic_set else ""
        return f"{self.regime.name}{dose}{synthetic_set}-{self.seed}"


def regimes_of(config: ClassifierConfig) -> list[Regime]:
    """Return the regimes that the settings name. With doses, add the regimes that a dose-response is compared with.

    Raises:
        UsageError: if no regime uses the doses, dose 1 stands beside another number of synthetic images, or
            `classifier train` gets a group of regimes.
    """
    if isinstance(config, AblateConfig):
        chosen = select_regimes(config.regimes)
        if config.doses and not any(r.synthetic for r in chosen):
            raise UsageError(
                f"doses are {list(config.doses)}, but no regime here uses synthetic images; add gan or combined"
            )
        if 1.0 in config.doses and config.synthetic_count != "deficit":
            raise UsageError(
                f"doses are {list(config.doses)} beside synthetic_count {config.synthetic_count}: dose 1 is the"
                " deficit, which this study does not train; leave one of the two out"
            )
        names = [r.name for r in chosen] + [r.reference for r in chosen if config.doses and r.synthetic]
        return select_regimes(names)
    name = cast(TrainConfig, config).regime
    if name in GROUPS:
        raise UsageError(f"regime is {name!r}; `classifier train` takes one regime, `classifier ablate` takes groups")
    return select_regimes((name,))


def plan_trials(config: ClassifierConfig, regimes: Sequence[Regime], synthetic_sets: int) -> list[Trial]:
    """Return every trial, seed by seed, so that pairs are complete early; within a seed set by set, then other doses.

    An ablation has several seeds and doses; ``synthetic_sets`` is the number of sets.
    """
    seeds = config.seeds if isinstance(config, AblateConfig) else 1
    doses = [d for d in dict.fromkeys(config.doses) if d not in (0.0, 1.0)] if isinstance(config, AblateConfig) else []
    main_dose = 1.0 if config.synthetic_count == "deficit" else None
    trials = []
    for seed in range(config.seed, config.seed + seeds):
        for regime in regimes:
            if not regime.synthetic:
                trials.append(Trial(regime, seed))
                continue
            trials += [Trial(regime, seed, s, main_dose) for s in range(synthetic_sets)]
            with_doses = not regime.replace and not regime.filtered and regime.others == "whole"
            trials += [Trial(regime, seed, s, d) for d in doses if with_doses for s in range(synthetic_sets)]
    return trials
