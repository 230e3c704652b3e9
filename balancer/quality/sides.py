"""The sides of every comparison in a quality report: which real images face which synthetic ones.

Every figure depends on the number of images. So all sides of a comparison are equally large, and drawn once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from balancer.core.settings import QualityConfig
from balancer.data.perceptual_hash import pixel_hashes
from balancer.data.records import sampling_unit
from balancer.data.split import patient_halves
from balancer.metrics.features import random_subset
from balancer.metrics.memorization import identical

Array = np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """Real images (n, H, W) or (n, H, W, 3) uint8, the patient of each image, and the name of the set in a report.

    Where the images were coded as others are, ``as_read`` has them as they were.
    """

    images: Array
    groups: list[str]
    name: str
    as_read: Array | None = None

    @property
    def read(self) -> Array:
        """Return the images as they were read: coding changes pixels, and would hide that images are equal."""
        return self.images if self.as_read is None else self.as_read

    def all(self) -> Side:
        """Return all images as one side."""
        return Side(self, np.arange(len(self.images)))

    def halves(self) -> tuple[Side, Side]:
        """Return two halves with no patient in common."""
        first, second = patient_halves(self.groups)
        return Side(self, first), Side(self, second)


@dataclass(frozen=True)
class Side:
    """Some images of a set, by position (n,)."""

    source: ImageSet
    positions: Array

    @property
    def images(self) -> Array:
        """Return the images, (n, H, W) or (n, H, W, 3) uint8."""
        return self.source.images[self.positions]

    @property
    def groups(self) -> list[str]:
        """Return the patient of each image."""
        return [self.source.groups[i] for i in self.positions]

    def draw(self, n: int, seed: int, *names: str) -> Side:
        """Return ``n`` of the images, drawn from a named stream."""
        return Side(self.source, self.positions[random_subset(len(self.positions), n, seed, *names)])


@dataclass(frozen=True)
class Comparison:
    """Equally many real, other real and synthetic images (positions), drawn once.

    ``other`` is None where no other real images can serve as the real baseline.
    """

    reference: str
    real: Side
    other: Side | None
    fake: Array


def unseen(train: ImageSet, held_out: ImageSet | None, notes: list[str]) -> ImageSet | None:
    """Return the held-out images of patients that are not in training, None if there are none."""
    if held_out is None:
        return None
    known = set(train.groups)
    new = np.array([group not in known for group in held_out.groups], dtype=bool)
    if dropped := int((~new).sum()):
        notes.append(
            f"{dropped} of the {len(new)} images of {held_out.name} are left out: their "
            f"{sampling_unit(held_out.groups)}s are in {train.name} too."
        )
    if not new.any():
        return None
    as_read = None if held_out.as_read is None else held_out.as_read[new]
    groups = np.array(held_out.groups)[new].tolist()
    return replace(held_out, images=held_out.images[new], groups=groups, as_read=as_read)


def comparisons(
    settings: QualityConfig, train: ImageSet, held_out: ImageSet | None, n_fake: int, notes: list[str]
) -> list[Comparison]:
    """Return one comparison per reference; the interpretation goes by the last one with a real baseline."""
    half = f"{train.name} (half the {sampling_unit(train.groups)}s)"
    references: list[tuple[str, Side, Side | None]] = [(half, *train.halves())]
    if held_out:
        references.append((held_out.name, held_out.all(), train.all()))
    else:
        references.insert(0, (f"{train.name} (all)", train.all(), None))
    made, seed = [], settings.seed
    for name, real, other in references:
        counts = [len(side.positions) for side in (real, other) if side]
        n = min(*counts, n_fake)
        if n >= 2:
            drawn = other.draw(n, seed, name, "floor") if other else None
            fake = random_subset(n_fake, n, seed, name, "fake")
            made.append(Comparison(name, real.draw(n, seed, name, "real"), drawn, fake))
            continue
        baseline = f", {counts[1]} for the real baseline" if other else ""
        notes.append(
            f"No distance to {name}: it needs 2 images a side, and there are {counts[0]} real{baseline} and {n_fake} "
            "synthetic."
        )
    return made


def shift_sides(
    settings: QualityConfig, train: ImageSet, test: ImageSet | None
) -> tuple[Side, Side, Side, Side] | None:
    """Return training images, test images, and two halves of the training images as real baseline, at equal counts."""
    if test is None:
        return None
    sides = [train.all(), test.all(), *train.halves()]
    n = min(len(side.positions) for side in sides)
    if n < 2:
        return None
    a, b, c, d = (side.draw(n, settings.seed, "shift", str(i)) for i, side in enumerate(sides))
    return a, b, c, d


def same_images(fake: Array, sets: list[ImageSet], as_read: Array | None = None) -> str | None:
    """Return the name of a real set that holds exactly the synthetic images; see :func:`equals`."""
    read = fake if as_read is None else as_read

    def same(images: Array, others: Array) -> bool:
        return Counter(pixel_hashes(images)) == Counter(pixel_hashes(others))

    same_number = (s for s in sets if len(s.images) == len(fake))
    return next((s.name for s in same_number if same(fake, s.images) or same(read, s.read)), None)


def equals(fake: Array, real: ImageSet, as_read: Array | None = None) -> Array:
    """Return which synthetic images (n,) equal a real one in every pixel, as the images are or as they were read.

    Args:
        fake: synthetic images.
        real: real images.
        as_read: the synthetic images before they were coded as the real ones are; None where they were not.
    """
    found = identical(fake, real.images)
    if as_read is not None or real.as_read is not None:
        found = found | identical(fake if as_read is None else as_read, real.read)
    return found
