"""What the quality report holds: figures on synthetic images, each with the same figure between two real sets.

The name of such a baseline is that of its figure with ``_real_baseline``. The classes are what ``report.json`` holds,
key by key; :func:`from_json` reads it back, older files too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from balancer.core.files import JsonObject
from balancer.metrics.chance import Chance
from balancer.metrics.manifold import Manifold
from balancer.metrics.memorization import Memorization
from balancer.metrics.own_features import OwnNetwork
from balancer.metrics.spectrum import Spectrum
from balancer.metrics.two_sample import TwoSample

SYNTHETIC, OTHER_REAL = "synthetic", "other real images"  # what a two-sample test compares with real images
PIXELS, HALF_SIZE = "pixels", "pixels at half size"  # what it sees; at half size fine detail is gone
OLD_KEYS = {  # of files written before the real baselines were called so
    **{f"{figure}_floor": f"{figure}_real_baseline" for figure in ("frechet", "kid", "kid_sd", "overlap")},
    "floor_db": "rms_db_real_baseline",
    "high_floor_db": "high_db_real_baseline",
    "checkerboard_floor_db": "checkerboard_db_real_baseline",
    "closeness": "nearer_probability",
    "p_value": "nearer_p",
    "membership": "membership_auroc",
    "median_held_out": "median_baseline",
    "reading": "interpretation",
}


@dataclass(frozen=True)
class SetDistance:
    """How far two sets of images lie apart in feature space, and how they overlap; None with too few images for it."""

    frechet: float
    kid: float
    kid_sd: float  # over random subsets
    overlap: Manifold | None


@dataclass(frozen=True)
class DistanceRow(SetDistance):
    """Synthetic images against as many images of a real reference, on one feature network.

    The real baselines are None where no other real images of the same size can be had. ``_chance`` marks what chance
    alone does to a figure (:mod:`balancer.metrics.chance`).
    """

    features: str  # name of the network
    frechet_name: str  # FID on Inception features alone
    reference: str
    n_real: int
    n_fake: int
    kid_subsets: int
    kid_subset_size: int
    frechet_real_baseline: float | None
    kid_real_baseline: float | None
    kid_sd_real_baseline: float | None
    overlap_real_baseline: Manifold | None
    kid_chance: Chance | None = None  # of the kernel distance of all images; None in reports of earlier versions
    recall_chance: Chance | None = None  # None as well where there are too few images for the overlap


@dataclass(frozen=True)
class ShiftRow(SetDistance):
    """Training against test images, both real; the baseline is between two halves of the training images."""

    features: str
    reference: str
    n: int  # images on each side
    frechet_real_baseline: float
    kid_real_baseline: float
    overlap_real_baseline: Manifold | None


@dataclass(frozen=True)
class TwoSampleRow(TwoSample):
    """A two-sample test of real images against SYNTHETIC ones, or against OTHER_REAL ones as its control."""

    on: str  # what the classifier sees: a feature network, pixels
    compared: str
    reference: str
    interpretation: str


@dataclass(frozen=True)
class SpectrumComparison(Spectrum):
    """Power spectra with the number of images and what they say."""

    n_real: int
    n_fake: int
    interpretation: str


@dataclass(frozen=True)
class Finding:
    """One figure as text, its real baseline, and what the two together say."""

    metric: str
    figure: str
    n_real: int
    n_fake: int
    real_baseline: str
    interpretation: str


@dataclass(frozen=True)
class QualityReport:
    """All figures on a set of synthetic images; :mod:`balancer.quality.interpretation` says what they mean.

    Attributes:
        reference: the real images that the interpretation goes by; None where no comparison has a real baseline.
        same_images: the name of a real set that holds exactly the "synthetic" images.
        held_out_copies: synthetic images that equal a held-out image in every pixel; 0 in reports of earlier versions.
        memorization, spectrum: None where these images cannot give them; the notes say why.
        own_network: the feature network that was trained for these data, also where it is not used.
        format_caveat: a sentence for the verdict, where file formats alone could part the sides.
        unit: what halves and folds of real images keep together, in a word.
        notes: what could not be computed, and what small counts do to the figures.
    """

    n_fake: int
    reference: str | None = None
    same_images: str | None = None
    held_out_copies: int = 0
    distances: list[DistanceRow] = field(default_factory=list)
    shift: list[ShiftRow] = field(default_factory=list)
    memorization: Memorization | None = None
    two_sample: list[TwoSampleRow] = field(default_factory=list)
    spectrum: SpectrumComparison | None = None
    notes: list[str] = field(default_factory=list)
    format_caveat: str | None = None
    unit: str = "patient"  # "image" where no patient of the training images is known
    own_network: OwnNetwork | None = None


def from_json(quality: JsonObject) -> QualityReport:
    """Return what stands under ``quality`` in a report.json, of this version or an older one."""
    return TypeAdapter(QualityReport).validate_python(_with_new_keys(quality))


def _with_new_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {OLD_KEYS.get(key, key): _with_new_keys(content) for key, content in value.items()}
    return [_with_new_keys(content) for content in value] if isinstance(value, list) else value
