"""The regimes of an ablation: changes of the training set and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from balancer.core.errors import UsageError, nearest


@dataclass(frozen=True)
class Regime:
    """One way of balancing and augmenting the training set; every switch is off in ``baseline``."""

    name: str
    # all: the 2 x 2 design; controls: balancing without a GAN; checks: known answers; shortcut: regimes in which being
    # synthetic tells little or nothing of the class, with their controls
    group: str = "all"
    augment: bool = False  # random transforms of every training image, synthetic images included
    synthetic: bool = False  # synthetic images are added to the smaller classes
    replace: bool = False  # they replace the real images of their class: train on synthetic, test on real
    duplicate: bool = False  # as many duplicates of real images are added instead
    weighted: bool = False  # the loss weights the classes equally
    oversample: bool = False  # every batch has equally many images of each class
    focal: bool = False  # the focal loss (Lin et al. 2017, arXiv:1708.02002)
    flipped: float = 0.0  # share of the training labels that are changed
    permuted: bool = False  # the training labels are shuffled
    # What happens to the classes that lack no image. "replaced": every class keeps as many real images as the smallest
    # has, and is filled up like that one. "added": every class keeps its real images and gets the same share more.
    # "reduced": every class keeps as many real images as the smallest has, and nothing is added.
    others: Literal["whole", "replaced", "added", "reduced"] = "whole"
    pretrain: bool = False  # synthetic images in the first half of the steps alone
    mixup: bool = False  # synthetic images are blended with real ones of their class (Zhang et al. 2018)
    filtered: bool = False  # of a surplus of synthetic images those are added that look most real to a discriminator
    seed_offset: int = 0  # added to the trial seed, so that the regime is not paired

    @property
    def reference(self) -> str:
        """Return the regime with the same augmentation and no balancing."""
        return "augment" if self.augment else "baseline"


def _with_augmentation(name: str, group: str = "controls", **switches: Any) -> tuple[Regime, Regime]:
    return Regime(name, group, **switches), Regime(f"{name}_augment", group, augment=True, **switches)


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
        *_with_augmentation("gan_both", "shortcut", synthetic=True, others="replaced"),
        *_with_augmentation("gan_both_added", "shortcut", synthetic=True, others="added"),
        *_with_augmentation("gan_pretrain", "shortcut", synthetic=True, pretrain=True),
        *_with_augmentation("gan_mixup", "shortcut", synthetic=True, mixup=True),
        *_with_augmentation("gan_filtered", "shortcut", synthetic=True, filtered=True),
        *_with_augmentation("duplicate_both", "shortcut", duplicate=True, others="replaced"),
        *_with_augmentation("undersample", "shortcut", others="reduced"),
        Regime("baseline_again", "checks", seed_offset=100_000),
        Regime("flipped", "checks", flipped=0.3),
        Regime("permuted", "checks", permuted=True),
    )
}
GROUPS = {
    group: tuple(r.name for r in REGIMES.values() if r.group == group)
    for group in ("all", "controls", "shortcut", "checks")
}
GROUPS["confirmatory"] = ("baseline", "augment", "gan", "combined", "duplicate", "duplicate_augment")


def select_regimes(names: Sequence[str]) -> list[Regime]:
    """Return regimes by name or by group, such as ``all`` or ``confirmatory``, in the order of the registry.

    Raises:
        UsageError: if a name is unknown, or there is none.
    """
    wanted: set[str] = set()
    for name in names:
        if len(name.replace(";", " ").split()) > 1:
            raise UsageError(f"regime is {name!r}; put commas between names, as in baseline,gan")
        if name not in REGIMES and name not in GROUPS:
            raise UsageError(f"regime is {name!r}; {nearest(name, [*REGIMES, *GROUPS])}")
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise UsageError("no regime given; expected all, controls, or names such as baseline,gan")
    return [regime for regime in REGIMES.values() if regime.name in wanted]
