"""The ranges of the presets that are not of a published system: albumentations' version and the device's use them."""

from __future__ import annotations

from dataclasses import dataclass, replace

Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """What a preset does to an image, in this order; every number is drawn uniformly, and anew for each image.

    ``p_...`` is the probability of a change. The pose always changes; what comes from outside is black.
    """

    angle: Range  # degrees
    shift: Range  # share of the side, each way by itself, cut to whole pixels
    zoom: Range  # each way by itself
    shear: Range  # degrees, each way by itself
    gamma: Range  # percent
    p_gamma: float
    brightness: float  # up to so much is added, either way, as a share of the range
    contrast: float  # grey levels are multiplied by up to 1 -+ so much
    p_exposure: float
    blur: Range  # sigma in pixels
    sharpen: Range | None  # strength; None: the change of sharpness is always a blur, else half of the time
    p_sharpness: float
    noise: Range  # SD, as a share of the range
    p_noise: float
    # Albumentations, seeded anew for each image, gives every change the same stream of numbers. So under `mild`, blur
    # and noise come together or not at all, and with a shift to the same side. Each change alone is as it should be.
    shared_numbers: bool = True


MILD = Ranges(
    angle=(-10, 10),
    shift=(-0.06, 0.06),
    zoom=(0.9, 1.1),
    shear=(-5, 5),
    gamma=(80, 125),
    p_gamma=0.5,
    brightness=0.0,
    contrast=0.0,
    p_exposure=0.0,
    blur=(0.1, 1.0),
    sharpen=None,
    p_sharpness=0.3,
    noise=(0.005, 0.03),
    p_noise=0.3,
)
STRONG = Ranges(
    angle=(-15, 15),
    shift=(-0.1, 0.1),
    zoom=(0.85, 1.15),
    shear=(-8, 8),
    gamma=(60, 165),
    p_gamma=0.7,
    brightness=0.2,
    contrast=0.3,
    p_exposure=0.5,
    blur=(0.1, 1.5),
    sharpen=(0.1, 0.4),
    p_sharpness=0.6,
    noise=(0.01, 0.05),
    p_noise=0.4,
)
RANGES = {  # the presets that have a version on the device
    "mild": MILD,
    "strong": STRONG,
    "mild_independent": replace(MILD, shared_numbers=False),
    "strong_independent": replace(STRONG, shared_numbers=False),
}
