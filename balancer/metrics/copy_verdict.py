"""The verdict on copies in words, from the counts and tests of :mod:`balancer.metrics.memorization`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from balancer.reporting.numbers import p_equals

Status = Literal["copies", "closer", "none"]

ALPHA = 0.01  # p-value below which a test counts
FEW_PATIENTS = 16  # below this, up to 8 % of real sets held a "near copy" of other patients (docs/features.md)
SHIFT_ALPHA = 0.05  # below which held-out images count as of another source: here, missing it would accuse wrongly


@dataclass(frozen=True)
class Counts:
    """How many copies there are, among how many images."""

    exact: int  # synthetic images equal to a training image
    near: int  # other synthetic images that are near copies of one
    n_fake: int
    units: int  # of training
    unit: str  # "patient", or "image" where no patient is known


def judge(counts: Counts, p: float, membership_p: float | None, shift_p: float | None, few: bool) -> tuple[Status, str]:
    """Return status and verdict; with held-out images, the membership test separates copying from mere likeness.

    Args:
        counts: copies and images.
        p: that synthetic images are nearer to training images than the baseline is.
        membership_p: that training patients are nearer to synthetic images than held-out ones; None without these.
        shift_p: that held-out patients are farther from training than training patients are from one another.
        few: whether there are too few images for the first test to show anything.
    """
    unit = counts.unit
    if counts.exact or counts.near:
        return _on_copies(counts)
    clean = f"no exact or near copy among {counts.n_fake:,}"
    others = "other" if membership_p is None else "unseen"
    likeness = f"Closer to the training images than {others} {unit}s are ({p_equals(p)})"
    if membership_p is not None and membership_p < ALPHA:
        apart = f"Closer to the training images than to unseen {unit}s ({p_equals(membership_p)})"
        return "closer", f"{apart}: {_memorised_or_shifted(shift_p)}; {clean}."
    if p >= ALPHA:
        real = f"other {unit}s'" if membership_p is None else "held-out real"
        nearer = f"synthetic images are not shown to be closer to training images than {real} ones ({p_equals(p)})"
        return "none", f"No sign of copying: {nearer}{', and are too few for that' if few else ''}; {clean}."
    if membership_p is None:
        doubt = "the generator may have memorised, or draws only typical images; held-out images would tell"
        return "closer", f"{likeness}: {doubt}; {clean}."
    even = f"not clearly closer to them than to unseen {unit}s ({p_equals(membership_p)})"
    return "none", f"{likeness}, but {even}: typical rather than copied; {clean}."


def _on_copies(counts: Counts) -> tuple[Status, str]:
    """Return status and verdict where there are copies, or images that near copies are not known from."""
    exact, near, n_fake = counts.exact, counts.near, counts.n_fake
    if not exact and counts.units < FEW_PATIENTS:
        return "closer", (
            f"{near:,} of the {n_fake:,} synthetic images lie as near to a training image as a copy would, but"
            f" {counts.units} training {counts.unit}s are too few to know how near unrelated images lie: look at the"
            " closest pairs."
        )
    kinds = " and ".join(f"{n:,} {kind}" for n, kind in ((exact, "exact"), (near, "near")) if n)
    advice = "do not use them" if exact else "look at the closest pairs before using any"
    what = "copy of a training image" if exact + near == 1 else "copies of training images"
    return "copies", f"{kinds} {what} among {n_fake:,} synthetic images: {advice}."


def _memorised_or_shifted(shift_p: float | None) -> str:
    """Return what may lie behind synthetic images that are closer to training than to held-out patients."""
    if shift_p is not None and shift_p < SHIFT_ALPHA:
        return (
            "this is no proof of copying, since the held-out images themselves lie farther from the training images "
            f"than these from one another ({p_equals(shift_p)}), as images of another source do"
        )
    return "the generator may have memorised, if the held-out images are of the same source as the training images"
