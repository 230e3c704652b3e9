"""What synthetic images are worth: the number of real images that give the same, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy

from classifier.analysis.analyse import ResampledStudy
from classifier.analysis.results import StudyResults
from classifier.analysis.statistics import FEWEST_GAN_SEEDS, Estimate, crossed_estimate

Array = np.ndarray
PAIRS = (("gan", "baseline"), ("combined", "augment"))  # whose gain is put in real images
FEWEST_SIZES = 3  # by which a curve of real images is drawn
PRECISION = 0.002  # of an end of an interval, on the way from a size to the next


@dataclass(frozen=True)
class Worth:
    """The number of real images of the smallest class that would give what a regime with synthetic images gives.

    The interval is over test patients, trial seeds and, of three or more, GAN seeds. A bound at an end of the curve is
    open: the curve of real images has no sizes beyond.
    """

    regime: str
    size: str
    minority: int
    added: int
    real: float
    low: float
    high: float
    smallest: int  # sizes at the ends of the curve
    largest: int
    trial_seeds: int
    gan_seeds: int

    def describe(self) -> str:
        """Return a sentence."""
        low, high = (self._end(value) for value in (self.low, self.high))
        is_open = self.low <= self.smallest and self.high >= self.largest
        return (
            f"{self.regime} at {self.minority:,} real images ({self.added:,} synthetic added) does as"
            f" {self._end(self.real)} real images would; 95 % interval {self._scope()}:"
            f" {'anywhere on the curve' if is_open else f'{low} to {high}'}"
        )

    def _scope(self) -> str:
        """Return what the interval is over."""
        if self.trial_seeds == 1:
            return "over test patients alone"
        if self.gan_seeds < FEWEST_GAN_SEEDS:
            return "over test patients and trial seeds, for these synthetic images"
        return "over test patients, trial seeds and GANs"

    def _end(self, value: float) -> str:
        if value <= self.smallest:
            return f"at most {self.smallest:,}"
        return f"at least {self.largest:,}" if value >= self.largest else f"{value:,.0f}"


def worths(
    names: Sequence[str],
    counts: Sequence[tuple[int, int]],
    studies: Sequence[StudyResults],
    seed: int,
    resamples: int,
) -> list[Worth]:
    """Return for each size and pair of regimes the number of real images that the synthetic ones stand for.

    Args:
        names: of the sizes, the smallest first.
        counts: real images of the smallest class at each size, and images added to it.
        studies: the trials at each size.
        seed: of the resamples.
        resamples: of test patients, the same at every size.
    """
    if len(names) < FEWEST_SIZES:
        return []
    resampled = [ResampledStudy(results, resamples, seed) for results in studies]
    numbers, patients = np.array([n for n, _ in counts]), min(study.patients for study in resampled)
    found = []
    for regime, reference in PAIRS:
        values = paired([study.by_seed((regime, reference)) for study in resampled])
        if not values:
            continue
        curve = [of_size[reference] for of_size in values]
        means = np.array([of_size[0].mean() for of_size in curve])
        for i, of_size in enumerate(values):
            reached = of_size[regime]
            real = equivalent(numbers, means, float(reached[0].mean()))
            low, high = interval(numbers, curve, reached, patients)
            ends = min(low, real), max(high, real)
            seeds = reached.shape[1:]
            found.append(Worth(regime, names[i], *counts[i], real, *ends, int(numbers[0]), int(numbers[-1]), *seeds))
    return found


def paired(studies: Sequence[dict[int, dict[str, Array]]]) -> list[dict[str, Array]]:
    """Return the arms of each study, (1 + resamples, trial seeds, synthetic sets), for the seeds that all studies have.

    ``studies`` hold values (1 + resamples, synthetic sets) by trial seed and arm. Nothing is returned if no seed is in
    all studies, or if the studies differ in the number of sets.
    """
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in studies)))
    sets = {values.shape[1] for study in studies for of_seed in study.values() for values in of_seed.values()}
    if not seeds or len(sets) > 1:
        return []
    arms = list(studies[0][seeds[0]])
    return [{arm: np.stack([study[seed][arm] for seed in seeds], axis=1) for arm in arms} for study in studies]


def equivalent(numbers: Array, curve: Array, reached: float) -> float:
    """Return the number of real images at which a rising curve reaches a value, within the ends of the curve.

    Args:
        numbers: of real images, (sizes,), rising.
        curve: the metric at each number, (sizes,); where it falls it is held at its highest value so far.
        reached: the value to reach.

    >>> round(equivalent(np.array([10, 100, 1000]), np.array([0.5, 0.7, 0.9]), 0.8), 1)
    316.2
    """
    rising = np.maximum.accumulate(curve)
    place = int(np.searchsorted(rising, reached))  # of a flat stretch the first number counts: np.interp takes the last
    if place in (0, len(curve)):
        return float(numbers[min(place, len(curve) - 1)])
    share = (reached - rising[place - 1]) / (rising[place] - rising[place - 1])
    return float(numbers[place - 1] * (numbers[place] / numbers[place - 1]) ** share)


def interval(numbers: Array, curve: Sequence[Array], reached: Array, patients: int) -> tuple[float, float]:
    """Return the 95 % interval of the number of real images, by inverting a test (Fieller 1954, JRSS B 16).

    At a number of real images, the difference between the regime and the curve is a contrast over patients, trial seeds
    and GAN seeds. The interval goes from the smallest number at which the regime is not shown to be above the curve to
    the largest at which it is not shown to be below. Such an interval is honest where the curve is flat, and where few
    seeds scatter: no number of real images is divided by an uncertain slope. It ends at an end of the curve where the
    test cannot exclude that end.

    Args:
        numbers: of real images, (sizes,), rising.
        curve: the metric without synthetic images at each number, (1 + resamples, K, G) each.
        reached: the metric with synthetic images, (1 + resamples, K, G).
        patients: of the class that has fewer.
    """

    def difference(place: float) -> Estimate:
        """Return the difference at a place on the curve: 0 is its first size, 1 its second, and so on."""
        i = min(int(place), len(curve) - 2)
        return crossed_estimate(reached - (i + 1 - place) * curve[i] - (place - i) * curve[i + 1], patients, limit=1.0)

    sizes = range(len(curve))
    low = _first_place(sizes, lambda place: difference(place).low)  # is the regime above the curve?
    high = _first_place(sizes[::-1], lambda place: -difference(place).high)  # is the regime below it?
    ends = np.exp(np.interp([low, high], sizes, np.log(numbers)))
    return float(ends[0]), float(ends[1])


def _first_place(sizes: Sequence[int], excess: Callable[[float], float]) -> float:
    """Return the first place from an end of the curve where a bound does not exceed 0, or the other end if none.

    Between two sizes the difference is linear and its standard error convex. So the bound crosses 0 once between a size
    where it exceeds 0 and the next where it does not, and nowhere between two where it exceeds 0.
    """
    if excess(sizes[0]) <= 0:
        return sizes[0]
    for before, place in pairwise(sizes):
        if excess(place) <= 0:
            return float(scipy.optimize.brentq(excess, before, place, xtol=PRECISION))
    return sizes[-1]
