"""Count how often a quality report says of real images that they differ from other real images.

Real images of disjoint patients play all three parts: training images, held-out images, and the "synthetic" images. So
every statement of a difference is false. Each draw is a complete report, without FID. Statements are read off its
sentences.

    BALANCER_DATA=DIR python benchmarks/false_statements.py [--counts 4,16,64] [--minutes 10] [--two-sample]
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections import Counter

import numpy as np

from balancer.core.device import limit_threads, resolve_device
from balancer.core.settings import DataConfig, QualityConfig
from balancer.data.dataset import load_dataset
from balancer.quality.assess import assess
from balancer.quality.interpretation import interpret, verdict
from balancer.quality.sides import ImageSet

Array = np.ndarray
STATEMENTS = {  # what a row of the table counts, and the sentences that say so
    "blurred or noisy": r"\b(blurred|noisy)\b",
    "checkerboard": r"checkerboard peak",
    "spectrum off": r"off over all frequencies",
    "KID above or below": r"\b(Above|Below) real against real",
    "Fréchet below": r"Less than the distance",
    "little variety": r"show only|has collapsed",
    "copies": r"(exact|near) (copy|copies) of",
    "memorised": r"may have memorised",
    "repeats": r"repeat another",
    "told by a classifier": r"The synthetic images can be told",
}


def main() -> None:
    """Print the share of draws with each statement as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("BALANCER_DATA", "phantom"))
    parser.add_argument("--counts", default="4,16,64", help="images a side, parted by commas")
    parser.add_argument("--draws", type=int, default=1000, help="draws at each count, at most")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all counts together, at most")
    parser.add_argument("--two-sample", action="store_true", help="train classifiers too: minutes a draw")
    args = parser.parse_args()
    limit_threads()
    counts = [int(n) for n in args.counts.split(",")]
    images, patients = minority_images(args.data)
    print(f"| images a side | draws | {' | '.join(STATEMENTS)} |\n| ---: | ---: |{' ---: |' * len(STATEMENTS)}")
    with tempfile.TemporaryDirectory() as cache:  # features of draws are of no use to anybody else
        os.environ["BALANCER_CACHE"] = cache
        for n in counts:
            end, draws, hits = time.monotonic() + 60 * args.minutes / len(counts), 0, Counter[str]()
            while draws < args.draws and time.monotonic() < end:
                hits.update(false_statements(images, patients, n, draws, args.two_sample))
                draws += 1
            cells = [f"{hits[name]} ({100 * hits[name] / draws:.1f} %)" for name in STATEMENTS]
            print(f"| {n} | {draws} | {' | '.join(cells)} |", flush=True)


def minority_images(source: str) -> tuple[Array, list[str]]:
    """Return the minority class's images outside test, (n, 64, 64) uint8, and the patient of each."""
    data = load_dataset(DataConfig(path=source, image_size=64))
    chosen = np.flatnonzero((data.labels == data.minority_class) & (data.folds != "test"))
    return np.asarray(data.images[chosen]), [data.groups[i] for i in chosen]


def false_statements(images: Array, patients: list[str], n: int, draw: int, two_sample: bool) -> list[str]:
    """Return the names of the statements that a report makes on one draw of three sides of ``n`` images."""
    sides = three_sides(patients, n, np.random.default_rng([n, draw]))
    training, held_out, fake = (
        ImageSet(images[side], [patients[i] for i in side], name)
        for side, name in zip(sides, ("training fold", "validation", "other real images"), strict=True)
    )
    settings = QualityConfig(inception="off", kid_subsets=20, two_sample=two_sample, seed=draw)
    quality = assess(settings, training, held_out, fake.images, resolve_device("cpu"))
    text = " ".join([verdict(quality), *(finding.interpretation for finding in interpret(quality))])
    return [name for name, sentence in STATEMENTS.items() if re.search(sentence, text)]


def three_sides(patients: list[str], n: int, rng: np.random.Generator) -> list[Array]:
    """Return three times ``n`` positions that share no patient, with all images of a patient drawn as far as they fit.

    Raises:
        SystemExit: if there are too few images.
    """
    position = {patient: rank for rank, patient in enumerate(rng.permutation(sorted(set(patients))))}
    order = sorted(range(len(patients)), key=lambda i: position[patients[i]])
    sides, start = [], 0
    for _ in range(3):
        if start + n > len(order):
            raise SystemExit(f"3 sides of {n} images need more than the {len(order)} images that there are")
        side = order[start : start + n]
        sides.append(np.array(side))
        start += n
        while start < len(order) and patients[order[start]] == patients[side[-1]]:  # the rest of this patient's images
            start += 1
    return sides


if __name__ == "__main__":
    main()
