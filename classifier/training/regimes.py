"""The regimes of an ablation: changes of the training set and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balancer.core.errors import UsageError, nearest


@dataclass(frozen=True)
class Regime:
    """One way of balancing and augmenting the training set; every switch is off in ``baseline``."""

    name: str
    group: str = "all"  # all: the 2 x 2 design; controls: balancing without a GAN; checks: known answers
    augment: bool = False  # random transforms of every training image, synthetic images included
    synthetic: bool = False  # synthetic images are added to the smaller classes
    replace: bool = False  # they replace the real images of their class: train on synthetic, test on real
    duplicate: bool = False  # as many duplicates of real images are added instead
    weighted: bool = False  # the loss weights the classes equally
    oversample: bool = False  # every batch has equally many images of each class
    focal: bool = False  # the focal loss (Lin et al. 2017, arXiv:1708.02002)
    flipped: float = 0.0  # share of the training labels that are changed
    permuted: bool = False  # the training labels are shuffled
    seed_offset: int = 0  # added to the trial seed, so that the regime is not paired

    @property
    def reference(self) -> str:
        """Return the regime with the same augmentation and no balancing."""
        return "augment" if self.augment else "baseline"


def _with_augmentation(name: str, **switches: bool) -> tuple[Regime, Regime]:
    return (
        Regime(name, "controls", **switches),
        Regime(f"{name}_augment", "controls", augment=True, **switches),
    )


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("baseline"),
        Regime("augment", augment=True),
        Regime("gan", synthetic=True),
        Regime("combined", augment=True, synthetic=True),
        *_with_augmentation("duplicate", duplicate=True),
        *_with_augmentation("weighted", weighted=True),
        *_with_augmentation("oversample", oversample=True),
        *_with_augmentation("focal", focal=True),
        *_with_augmentation("synthetic_only", synthetic=True, replace=True),
        Regime("baseline_again", "checks", seed_offset=100_000),
        Regime("flipped", "checks", flipped=0.3),
        Regime("permuted", "checks", permuted=True),
    )
}
GROUPS = {group: tuple(r.name for r in REGIMES.values() if r.group == group) for group in ("all", "controls", "checks")}


def select_regimes(names: Sequence[str]) -> list[Regime]:
    """Return regimes by name or by group (``all``, ``controls``, ``checks``), in the registry's order.

    Raises:
        UsageError: if a name is unknown, or there is none.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in REGIMES and name not in GROUPS:
            raise UsageError(f"regime is {name!r}; {nearest(name, [*REGIMES, *GROUPS])}")
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise UsageError("no regime given; expected all, controls, or names such as baseline,gan")
    return [regime for regime in REGIMES.values() if regime.name in wanted]
