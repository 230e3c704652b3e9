"""How good a set of synthetic images is: each figure beside what real images reach against other real images.

Sets of images in, a dictionary for JSON out; nothing is written here. Distances, overlap, two-sample tests and the
spectrum all come from the same three sides, drawn once per reference at equal counts, because every one of these figures
depends on the count: real images, as many other real images of other patients (the floor), as many synthetic ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from balancer.core.errors import BalancerError
from balancer.core.settings import QualityConfig
from balancer.data.split import patient_halves
from balancer.metrics import spectrum, two_sample
from balancer.metrics.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    chest_xray,
    extract,
    inception,
    inception_weights,
    random_conv,
    random_subset,
)
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.metrics.manifold import NEIGHBOURS, manifold_overlap
from balancer.metrics.memorization import memorization
from balancer.quality.interpretation import HALF_SIZE, readings, verdict

Array = np.ndarray
ResultT = TypeVar("ResultT")
NO_FID = (
    "FID was not computed: the Inception weights are not in the torch hub cache and could not be downloaded. "
    f"To get it, put {INCEPTION_FILE} (from the torch-fidelity releases) into the cache's checkpoints folder, or give "
    "--inception-weights FILE. The distances here are on other, named networks and are not FIDs."
)
FID_OFF = "FID was not computed: --inception-weights is off. The distances here are on other, named networks and are not FIDs."


@dataclass(frozen=True)
class ImageSet:
    """Real images (n, H, W) uint8, the patient of each, and what a report calls the set."""

    images: Array
    groups: list[str]
    name: str


@dataclass(frozen=True)
class Side:
    """Some images of a set, by position."""

    source: ImageSet
    positions: Array

    @property
    def images(self) -> Array:
        return self.source.images[self.positions]

    @property
    def groups(self) -> list[str]:
        return [self.source.groups[i] for i in self.positions]


@dataclass(frozen=True)
class Comparison:
    """As many real, other real (None: no floor can be had) and synthetic images (positions), drawn once."""

    reference: str
    real: Side
    other: Side | None
    fake: Array


def assess(
    settings: QualityConfig,
    train: ImageSet,
    held_out: ImageSet | None,
    fake: Array,
    device: torch.device,
    test: ImageSet | None = None,
) -> dict[str, Any]:
    """Every figure on ``fake`` (n, H, W) uint8, with notes on what could not be computed and why.

    Args:
        train: what the generator learnt from: copies are searched here. Its halves with disjoint patients are a
            reference and its floor.
        held_out: real images that the generator never saw: the reference of choice, with as many of ``train`` as the floor.
        test: an official test set, only to show how far the data set's own parts lie apart.
    """
    notes: list[str] = []
    held_out = _unseen(train, held_out, notes)
    comparisons = _comparisons(settings, train, held_out, len(fake), notes)
    networks = _networks(settings.inception, device, notes)
    notes += _count_notes(settings, networks, comparisons)
    shift = _shift(settings, train, test)
    used = np.unique(np.concatenate([c.fake for c in comparisons])) if comparisons else np.arange(0)
    real = [s for s in (train, held_out, test) if s]
    features = [_Features(network, real, fake, used, device) for network in networks]
    main = next((c for c in reversed(comparisons) if c.other), None)  # with held-out images, those
    if held_out is None and main:
        notes.append(
            f"No held-out images: the synthetic images are compared with {train.name}, which the generator may have seen; "
            "figures can be too good."
        )
    quality: dict[str, Any] = {
        "n_fake": len(fake),
        "reference": main.reference if main else None,
        "same_images": _same_images(fake, [s for s in (held_out, train) if s]),
        "distances": [_distances(settings, f, c) for f in features for c in comparisons],
        "shift": [_shift_row(settings, f, *shift) for f in features if shift],
        "memorization": _part("memorisation", notes, lambda: _memorization(train, held_out, fake)),
        "two_sample": _two_sample(settings, features, main, fake, device, notes)
        if main and settings.two_sample
        else [],
        "spectrum": _part("spectrum", notes, lambda: _spectrum(main, fake)) if main else None,
        "notes": notes,
    }
    quality["readings"] = readings(quality)
    quality["verdict"] = verdict(quality)
    return quality


def report_seconds(settings: QualityConfig, side: int, images: int) -> float:
    """Rough, from runs on two cores: features and copies by the image, the pixel tests (each with its control) by the size."""
    tests = 2 * sum(two_sample.estimate_pixel_seconds(s) for s in (side, side // 2)) if settings.two_sample else 0
    return 15 + 0.01 * images + tests


def _unseen(train: ImageSet, held_out: ImageSet | None, notes: list[str]) -> ImageSet | None:
    """The held-out images of patients that are not in training, None if there is none."""
    if held_out is None:
        return None
    known = set(train.groups)
    new = np.array([group not in known for group in held_out.groups], dtype=bool)
    if dropped := int((~new).sum()):
        notes.append(
            f"{dropped} of the {len(new)} images of {held_out.name} are of patients in {train.name} too; they are left out."
        )
    if not new.any():
        return None
    return ImageSet(
        held_out.images[new], [g for g, keep in zip(held_out.groups, new, strict=True) if keep], held_out.name
    )


def _part(what: str, notes: list[str], compute: Callable[[], ResultT]) -> ResultT | None:
    """A part of the report, or None and a note where these images cannot give it."""
    try:
        return compute()
    except BalancerError as error:
        note = f"No {what}: {error}."
        notes += [note] if note not in notes else []
        return None


def _networks(weights: str, device: torch.device, notes: list[str]) -> list[FeatureNetwork]:
    path = inception_weights(weights)
    if path is None:
        notes.append(FID_OFF if weights == "off" else NO_FID)
    return [chest_xray(device), random_conv(device)] + ([inception(path, device)] if path else [])


class _Features:
    """Features on one network, each computed once: of all real images, of the synthetic ones that a comparison uses."""

    def __init__(
        self, network: FeatureNetwork, real: list[ImageSet], fake: Array, used: Array, device: torch.device
    ) -> None:
        self.network = network
        self._real = {s.name: extract(network, s.images, device, s.name, keep=True) for s in real}
        self._used, self._fake = used, extract(network, fake[used], device, "synthetic")

    def of(self, side: Side) -> Array:
        return self._real[side.source.name][side.positions]

    def of_fake(self, positions: Array) -> Array:
        return self._fake[np.searchsorted(self._used, positions)]


def _comparisons(
    settings: QualityConfig, train: ImageSet, held_out: ImageSet | None, n_fake: int, notes: list[str]
) -> list[Comparison]:
    """The references in the report's order; the last one with a floor is the one that readings go by."""
    first, second = _halves(train)
    wanted: list[tuple[str, Side, Side | None]] = [(f"{train.name} (half the patients)", first, second)]
    if held_out:
        wanted.append((held_out.name, _whole(held_out), _whole(train)))
    else:
        wanted.insert(0, (f"{train.name} (all)", _whole(train), None))
    made = []
    for reference, real, other in wanted:
        counts = [len(real.positions), *([len(other.positions)] if other else []), n_fake]
        n = min(counts)
        if n < 2:
            floor = f", {counts[1]} for the floor" if other else ""
            notes.append(
                f"No distance to {reference}: it needs 2 images a side; there are {counts[0]} real{floor} and {n_fake} synthetic."
            )
            continue
        made.append(
            Comparison(
                reference,
                _draw(real, n, settings.seed, reference, "real"),
                _draw(other, n, settings.seed, reference, "floor") if other else None,
                random_subset(n_fake, n, settings.seed, reference, "fake"),
            )
        )
    return made


def _halves(images: ImageSet) -> tuple[Side, Side]:
    first, second = patient_halves(images.groups)
    return Side(images, first), Side(images, second)


def _whole(images: ImageSet) -> Side:
    return Side(images, np.arange(len(images.images)))


def _draw(side: Side, n: int, seed: int, *names: str) -> Side:
    return Side(side.source, side.positions[random_subset(len(side.positions), n, seed, *names)])


def _distances(settings: QualityConfig, features: _Features, c: Comparison) -> dict[str, Any]:
    """One row: synthetic against real, and other real images against real as the floor."""
    network, n = features.network, len(c.fake)
    real = features.of(c.real)
    row = {
        "features": network.name,
        "frechet_name": "FID" if network.name == "inception-2048" else "Fréchet distance",
        "reference": c.reference,
        "n_real": n,
        "n_fake": n,
        "kid_subsets": settings.kid_subsets,
        "kid_subset_size": kid_subset_size(settings, n),
        **_pair(settings, real, features.of_fake(c.fake)),
    }
    floor = _pair(settings, real, features.of(c.other)) if c.other else {}
    return row | {f"{key}_floor": floor.get(key) for key in ("frechet", "kid", "kid_sd", "overlap")}


def _count_notes(settings: QualityConfig, networks: list[FeatureNetwork], comparisons: list[Comparison]) -> list[str]:
    """What small counts do to distances."""
    notes = []
    for c in comparisons:
        n = len(c.fake)
        size, many = kid_subset_size(settings, n), [network.name for network in networks if n <= network.dim]
        if size < settings.kid_subset_size:
            notes.append(
                f"KID against {c.reference}: {n} images a side, so its subsets hold {size} instead of {settings.kid_subset_size}."
            )
        if many:
            notes.append(
                f"Fréchet distance to {c.reference}: {n} images a side are not more than the features of {', '.join(many)}, so it is biased "
                "upwards; compare it only with its floor or with figures at the same n. KID is unbiased."
            )
    return notes


def kid_subset_size(settings: QualityConfig, n: int) -> int:
    """Images per subset: as asked, or half of what there is. Subsets of everything would be equal and show an SD of 0."""
    return min(settings.kid_subset_size, max(2, n // 2))


def _pair(settings: QualityConfig, real: Array, other: Array) -> dict[str, Any]:
    """Distances and overlap of two sets of features with equal counts."""
    size = kid_subset_size(settings, len(real))
    kid = kernel_distance(real, other, settings.kid_subsets, size, settings.seed)
    overlap = asdict(manifold_overlap(real, other)) if len(real) > NEIGHBOURS else None
    return {"frechet": frechet_distance(real, other), "kid": kid.mean, "kid_sd": kid.sd, "overlap": overlap}


def _shift(settings: QualityConfig, train: ImageSet, test: ImageSet | None) -> tuple[Side, Side, Side, Side] | None:
    """Training and test images, and two halves of the training images as their floor, all at equal counts."""
    if test is None:
        return None
    sides = [_whole(train), _whole(test), *_halves(train)]
    n = min(len(side.positions) for side in sides)
    if n < 2:
        return None
    a, b, c, d = (_draw(side, n, settings.seed, "shift", str(i)) for i, side in enumerate(sides))
    return a, b, c, d


def _shift_row(
    settings: QualityConfig, features: _Features, train: Side, test: Side, first: Side, second: Side
) -> dict[str, Any]:
    """How far the data set's own parts lie apart: real against real."""
    row = _pair(settings, features.of(train), features.of(test))
    floor = _pair(settings, features.of(first), features.of(second))
    names = {"features": features.network.name, "reference": f"{train.source.name} against {test.source.name}"}
    return (
        names
        | {"n": len(train.positions)}
        | row
        | {f"{key}_floor": floor[key] for key in ("frechet", "kid", "overlap")}
    )


def _memorization(train: ImageSet, held_out: ImageSet | None, fake: Array) -> dict[str, Any]:
    """Copies, and nearer_probability beside that of held-out patients, or of other training patients where two are not held out."""
    if held_out is None or len(set(held_out.groups)) < 2:
        return asdict(memorization(train.images, fake, train_groups=train.groups))
    return asdict(memorization(train.images, fake, held_out.images, train.groups, held_out.groups))


def _two_sample(
    settings: QualityConfig,
    features: list[_Features],
    c: Comparison,
    fake: Array,
    device: torch.device,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Classifiers that try to tell the sides apart, on each network's features and on pixels; each has other real images as its control."""
    assert c.other is not None, "the comparison that readings go by has a floor"
    logistic, pixel = two_sample.logistic_two_sample, partial(two_sample.pixel_two_sample, device=device)
    tests: list[tuple[str, Callable[..., two_sample.TwoSample], Array, Array, Array]] = [
        *((f.network.name, logistic, f.of(c.real), f.of_fake(c.fake), f.of(c.other)) for f in features),
        ("pixels", pixel, c.real.images, fake[c.fake], c.other.images),
    ]
    if min(fake.shape[1:]) >= 2 * two_sample.SMALLEST_SIDE:
        tests.append((HALF_SIZE, pixel, halved(c.real.images), halved(fake[c.fake]), halved(c.other.images)))
    rows = []
    for on, test, real, synthetic, other in tests:
        for compared, images, patients in (
            ("synthetic", synthetic, None),
            ("other real images", other, c.other.groups),
        ):
            run = partial(test, real, images, c.real.groups, seed=settings.seed, other_groups=patients)
            if found := _part("two-sample test", notes, run):
                names = {"on": on, "compared": compared, "reference": c.reference}
                rows.append(names | asdict(found) | {"reading": two_sample.interpretation(found)})
    return rows


def halved(images: Array) -> Array:
    """Images (n, H, W) uint8 at half the size, (n, H // 2, W // 2): means of 2 x 2 pixels, which no checkerboard survives."""
    n, height, width = images.shape
    blocks = images[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _spectrum(c: Comparison, fake: Array) -> dict[str, Any]:
    assert c.other is not None, "the comparison that readings go by has a floor"
    found = spectrum.compare_spectra(c.real.images, fake[c.fake], c.other.images)
    curves = {key: np.asarray(v).tolist() if np.ndim(v) else v for key, v in asdict(found).items()}
    return curves | {"n_real": len(c.fake), "n_fake": len(c.fake), "reading": spectrum.interpretation(found)}


def _same_images(fake: Array, sets: list[ImageSet]) -> str | None:
    """The name of a real set that holds exactly the images given as synthetic."""

    def contents(images: Array) -> Counter[str]:
        return Counter(hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images)

    ours = contents(fake)
    return next((s.name for s in sets if len(s.images) == len(fake) and contents(s.images) == ours), None)
