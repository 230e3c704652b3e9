"""The verdict on copies in words, from the counts and tests of :mod:`balancer.metrics.memorization`."""

from __future__ import annotations

from typing import Literal

from balancer.reporting.numbers import p_equals

Status = Literal["copies", "closer", "none"]

ALPHA = 0.01  # p-value below which a test counts
SHIFT_ALPHA = 0.05  # below which held-out images count as of another source: here, missing it would accuse wrongly


def unsure(near: int, n_fake: int, units: int, unit: str) -> tuple[Status, str]:
    """Return status and verdict where near copies are not known from images that are merely alike."""
    return "closer", (
        f"{near:,} of the {n_fake:,} synthetic images lie as near to a training image as a copy would, but {units} "
        f"training {unit}s are too few to know how near unrelated images lie: look at the closest pairs."
    )


def judge(
    exact: int,
    near: int,
    n_fake: int,
    p: float,
    membership_p: float | None,
    shift_p: float | None,
    unit: str,
    few: bool,
) -> tuple[Status, str]:
    """Return status and verdict; with held-out images, the membership test separates copying from mere likeness."""
    if exact or near:
        kinds = " and ".join(f"{n:,} {kind}" for n, kind in ((exact, "exact"), (near, "near")) if n)
        advice = "do not use them" if exact else "look at the closest pairs before using any"
        what = "copy of a training image" if exact + near == 1 else "copies of training images"
        return "copies", f"{kinds} {what} among {n_fake:,} synthetic images: {advice}."
    clean = f"no exact or near copy among {n_fake:,}"
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


def _memorised_or_shifted(shift_p: float | None) -> str:
    """Return what may lie behind synthetic images that are closer to training than to held-out patients."""
    if shift_p is not None and shift_p < SHIFT_ALPHA:
        return (
            "this is no proof of copying, since the held-out images themselves lie farther from the training images "
            f"than these from one another ({p_equals(shift_p)}), as images of another source do"
        )
    return "the generator may have memorised, if the held-out images are of the same source as the training images"
