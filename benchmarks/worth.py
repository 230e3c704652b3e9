"""Check the interval of what synthetic images are worth on simulated learning curves, whose true worth is known.

The scores are those of benchmarks/calibration.py: an ablation at each size, on the same test images, which are hard for
the same reasons. The AUROC of the baseline rises with the number of real images. That of the regime gan at each size is
what the baseline reaches with WORTH times as many images, on a straight line between sizes. With fewer than three GAN
seeds the sets are fixed, and the true worth is that of these sets.

    python benchmarks/worth.py [--studies 200] [--resamples 200] [--trial-seeds 3,5] [--gan-seeds 1,3] [--scenarios ...]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from calibration import AUROCS, SAME_RESAMPLES, SCATTER, SCENARIOS, Scenario, aurocs, draw, fewest_patients

from balancer.core import progress
from balancer.core.seeding import derive_seed
from classifier.learning_curve.worth import equivalent, interval

SIZES = np.array([50, 100, 200, 400, 1147])
BASELINE = np.array([0.86, 0.89, 0.915, 0.935, 0.95])  # expected AUROC at each size
WORTH = 1.5


@dataclass(frozen=True)
class Coverage:
    """Shares of the intervals at one size, in per cent, and their median width."""

    held: float  # the true worth
    above: float  # it lies above the interval
    below: float
    factor: float  # median of high over low


def coverage(
    scenario: Scenario, scatter: Sequence[float], k: int, g: int, studies: int, resamples: int
) -> list[Coverage]:
    """Simulate learning curves; return how often the interval at each size holds the true worth."""
    gan = np.interp(np.log(np.minimum(WORTH * SIZES, SIZES[-1])), np.log(SIZES), BASELINE)
    misses, factors = np.zeros((len(SIZES), 2)), np.ones((len(SIZES), studies))
    with progress.bar(studies, f"{k} trial seeds, {g} GAN seed(s)", "study") as bar:
        for number in range(studies):
            hard = derive_seed(number, "images", str(scenario))
            values, truth = [], []
            for i, more in enumerate(scatter):
                of_size = replace(scenario, trial=more * scenario.trial, trial_own=more * scenario.trial_own)
                shift = {"baseline": BASELINE[i] - AUROCS[2][0], "gan": gan[i] - AUROCS[2][0]}
                seed = derive_seed(number, "worth", str(of_size), k, g, i)
                study = draw(of_size, ("baseline", "gan"), k, g, shift, seed, of_images=hard)
                values.append(aurocs(study, resamples, number // SAME_RESAMPLES))
                truth.append(study.truth)
            curve = [of["baseline"] for of in values]
            true_curve = np.array([of["baseline"] for of in truth])
            for i, of in enumerate(values):
                worth = equivalent(SIZES, true_curve, truth[i]["gan"])
                low, high = interval(SIZES, curve, of["gan"], fewest_patients(2))
                misses[i] += (worth > high * (1 + 1e-9), worth < low * (1 - 1e-9))
                factors[i, number] = high / low
            bar.update()
    shares = 100 * misses / studies
    return [
        Coverage(float(100 - above - below), float(above), float(below), float(np.median(of_size)))
        for (above, below), of_size in zip(shares, factors, strict=True)
    ]


def main() -> None:
    """Print the coverage at each size as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200, help="a line")
    parser.add_argument("--resamples", type=int, default=200, help="of patients, in each study")
    parser.add_argument("--trial-seeds", default="3,5")
    parser.add_argument("--gan-seeds", default="1,3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--scatter", default=",".join(SCATTER), help="of trainings over sizes")
    args = parser.parse_args()
    begin = time.perf_counter()
    print(f"{args.studies} studies a line, {args.resamples} resamples; sizes {', '.join(map(str, SIZES))}\n")
    print("| scenario | scatter | GAN seeds | trial seeds | coverage at each size | mean | high / low, median |")
    print("| --- | --- | ---: | ---: | --- | ---: | --- |")
    lists = (names.split(",") for names in (args.scenarios, args.scatter, args.gan_seeds, args.trial_seeds))
    for name, scatter, g, k in itertools.product(*lists):
        found = coverage(SCENARIOS[name], SCATTER[scatter], int(k), int(g), args.studies, args.resamples)
        held = ", ".join(f"{of.held:.1f}" for of in found)
        factors = ", ".join(f"{of.factor:.1f}" for of in found)
        mean = np.mean([of.held for of in found])
        print(f"| {name} | {scatter} | {g} | {k} | {held} | {mean:.1f} | {factors} |", flush=True)
    print(f"\n{(time.perf_counter() - begin) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
