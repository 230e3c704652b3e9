"""The regimes of an ablation: what is done to the training set, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balancer.errors import UsageError, nearest


@dataclass(frozen=True)
class Regime:
    """One way of training. Every switch is off in ``baseline``."""

    name: str
    augment: bool = False  # classical transforms, on the fly, of every training image, synthetic ones too
    synthetic: bool = False  # synthetic minority images are added
    duplicate: bool = False  # as many copies of real minority images are added instead: a control
    weighted: bool = False  # the loss weights the classes equally: a control
    control: bool = False


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("baseline"),
        Regime("augment", augment=True),
        Regime("gan", synthetic=True),
        Regime("combined", augment=True, synthetic=True),
        Regime("duplicate", duplicate=True, control=True),
        Regime("duplicate_augment", augment=True, duplicate=True, control=True),
        Regime("weighted", weighted=True, control=True),
        Regime("weighted_augment", augment=True, weighted=True, control=True),
    )
}
GROUPS = {
    "all": tuple(r.name for r in REGIMES.values() if not r.control),
    "controls": tuple(r.name for r in REGIMES.values() if r.control),
}


def select_regimes(names: Sequence[str]) -> list[Regime]:
    """Regimes by name, in the registry's order; ``all`` is the 2 x 2 design, ``controls`` the controls.

    Raises:
        UsageError: an unknown name, or none at all.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in REGIMES and name not in GROUPS:
            raise UsageError(f"regime is {name!r}; {nearest(name, [*REGIMES, *GROUPS])}")
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise UsageError("no regime given; expected all, controls, or names such as baseline,gan")
    return [regime for regime in REGIMES.values() if regime.name in wanted]
