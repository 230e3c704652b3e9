"""Check the shortcut meter on simulated studies: the coverage of its intervals, and what it says where nothing is read.

Part "scores" draws the scores of classifiers, so the true share of pairs is a normal probability. An image's score is
that of the image, of its patient and of the training. A trace moves all images of a training and a set by as much.

Part "images" draws images, Gaussian fields with a spectrum like that of radiographs, and trains linear classifiers on
them. Everything else is the program's: traces, halves, scores, intervals, verdicts. The synthetic images of a perfect
generator are other images of the same class, so whatever is read is a false alarm. With --trace A they bear a
checkerboard of A grey levels, and the share of studies that read it is the power. With --halvings 0 the chance in the
fit of a trace is left out of the intervals.

    python benchmarks/shortcut_meter.py [--studies 100] [--resamples 100] [--trial-seeds 3] [--gan-seeds 2,3]
    [--minority 50,400] [--trace 0,2] [--halvings 1,4] [--parts scores,images]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import fft, stats
from torch import Tensor, nn

from balancer.core import progress
from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from balancer.data.records import Record
from balancer.metrics.traces import TRACES
from classifier.analysis.shortcuts import Measured, Patients, TraceResult, trace_result
from classifier.analysis.statistics import FEWEST_GAN_SEEDS
from classifier.evaluation.shortcut import MeterScores, Reading, Resampled, Share, TraceReading, resample
from classifier.training.metering import measure, probes
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray
CPU = torch.device("cpu")
SIDE = 16  # pixels
SHOWN, MAJORITY = 200, 600  # images of the other class: of validation, and of training
PER_PATIENT = 1.25  # images; a patient's share half of what makes them differ
UNIT = ClassifierConfig(data=DataConfig(image_size=SIDE), normalisation="unit")
NOTHING = Share(0.0, 0.0, 0.0)
EMPTY = np.empty(0, np.int64)
COLUMNS = ("read", "above real against real", "above the regime without")


def measured(cells: Mapping[int, list[Resampled]], patients: int) -> Measured:
    """Return readings of a regime, whose own words nobody reads here."""
    traces = tuple(TraceReading(name, NOTHING, NOTHING, 0.0, 0.0) for name in TRACES)
    reading = Reading("0", "NORMAL", SHOWN, traces, 0)
    of_seed = {k: [(reading, of) for of in row] for k, row in cells.items()}
    return Measured(of_seed, Patients(patients, 0, 0))


def patients_of(n: int, rng: np.random.Generator) -> Array:
    """Return the patient (n,) of each image."""
    return np.sort(rng.integers(0, round(n / PER_PATIENT), n))


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class Moves:
    """By how much of an image's SD a trace moves the scores of a regime: the mean, and SDs over seeds."""

    mean: float
    trial: float
    gan: float


MOVES = (Moves(0.0, 0.05, 0.05), Moves(0.5, 0.2, 0.1), Moves(2.0, 0.5, 0.3))


def scores_of(moves: Moves, k: int, g: int, groups: Array, rng: np.random.Generator) -> tuple[list[list[Array]], float]:
    """Return plain and moved scores (2, n) by trial seed and set, and the true share; of few sets, that of these."""

    def noise() -> Array:
        by_patient = rng.standard_normal(groups.max() + 1)[groups]
        values: Array = (by_patient + rng.standard_normal(len(groups))) / 2**0.5
        return values

    of_set, rows, hard = moves.gan * rng.standard_normal(g), [], noise()
    for _ in range(k):
        shift, plain = moves.mean + moves.trial * rng.standard_normal(), 0.8 * hard + 0.6 * noise()
        rows.append([np.stack([plain, plain + shift + of + 0.05 * noise()]) for of in of_set])
    fixed = g < FEWEST_GAN_SEEDS
    spread = (2 + moves.trial**2 + (0 if fixed else moves.gan**2) + 0.05**2) ** 0.5
    return rows, float(stats.norm.cdf((moves.mean + (of_set if fixed else 0)) / spread).mean())


def check_scores(moves: Moves, k: int, g: int, studies: int, resamples: int) -> list[float]:
    """Return how often the intervals of the share and of both differences hold the truth, in per cent."""
    held = []
    with progress.bar(studies, f"scores, {k} trial seeds, {g} GAN seed(s)", "study") as bar:
        for number in range(studies):
            rng = np.random.default_rng([number, k, g])
            groups = patients_of(SHOWN, rng)
            names, parts, truths = [str(p) for p in groups], [], []
            for of in (moves, Moves(0.2, 0.5 * moves.trial, 0.5 * moves.gan)):  # the regime, and the one without
                rows, truth = scores_of(of, k, g, groups, rng)
                parts.append(
                    {i: [_resampled(cell, names, number, resamples) for cell in row] for i, row in enumerate(rows)}
                )
                truths.append(truth)
            patients = len(set(names))
            ours, theirs = (measured(cells, patients) for cells in parts)
            result = trace_result(0, "spectrum", ours, {"baseline": theirs})
            wanted = truths[0], truths[0] - 0.5, truths[0] - truths[1]
            held.append([s.low <= w <= s.high for s, w in zip(_shares(result), wanted, strict=True)])
            bar.update()
    return [float(100 * share) for share in np.mean(held, axis=0)]


def _resampled(cell: Array, groups: list[str], seed: int, resamples: int) -> Resampled:
    index, control = np.arange(SHOWN), np.broadcast_to(cell[0], (1, 2, SHOWN))  # of no effect
    nothing = np.empty(0)
    scores = MeterScores(index, cell[0], cell[1:], control, EMPTY, nothing, EMPTY, EMPTY, EMPTY, nothing, EMPTY)
    return resample(scores, groups, seed, resamples)


def _shares(result: TraceResult) -> tuple[Share, Share, Share]:
    assert result.beyond_reference is not None
    return result.traced, result.beyond_control, result.beyond_reference


# ---------------------------------------------------------------- images


class Linear(nn.Module):
    """Map images (B, 1, H, W) to logits (B,) of class 1."""

    weights: Tensor

    def __init__(self, weights: Array) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights).float())

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return images.flatten(1) @ self.weights


def fields(n: int, rng: np.random.Generator) -> Array:
    """Return Gaussian fields (n, SIDE, SIDE) of unit variance, smooth as radiographs are."""
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(SIDE) * SIDE, fft.rfftfreq(SIDE) * SIDE, indexing="ij"))
    smooth = fft.irfft2(fft.rfft2(rng.standard_normal((n, SIDE, SIDE))) / (1 + frequency) ** 1.5, s=(SIDE, SIDE))
    values: Array = smooth / smooth.std()
    return values


ROWS, COLS = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
CLASS_PATTERN = 14 * np.exp(-12 * (ROWS**2 + COLS**2))
BOARD = 1.0 - 2 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2)


def draw(n: int, label: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return images (n, SIDE, SIDE) uint8 of a class, and their patients (n,)."""
    groups = patients_of(n, rng)
    of_patient = fields(int(groups.max()) + 1, rng)[groups]
    levels = (
        128
        + 25 * (of_patient + fields(n, rng)) / 2**0.5
        + label * CLASS_PATTERN
        + 4 * rng.standard_normal((n, SIDE, SIDE))
    )
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8), groups


def data_of(minority: int, rng: np.random.Generator) -> Dataset:
    """Return a data set with so many training images of class 0."""
    images, records, groups = [], [], []
    for fold, label, n in (
        ("train", 0, minority),
        ("train", 1, MAJORITY),
        ("val", 0, 5),
        ("val", 1, SHOWN),
        ("test", 0, 2),
    ):
        pixels, patients = draw(n, label, rng)
        images.append(pixels)
        groups += [f"{fold}-{label}-{p}" for p in patients]
        records += [Record(f"{fold}-{label}-{i}.png", label, fold, "", "") for i in range(n)]
    labels, folds = np.array([r.label for r in records]), np.array([r.split for r in records])
    digests = [r.name for r in records]
    return Dataset("memory", np.concatenate(images), labels, folds, records, groups, digests, "0" * 16, "f" * 16)


def set_of(n: int, trace: float, number: int, rng: np.random.Generator) -> SyntheticSet:
    """Return images of class 0 of other patients, with a checkerboard of so many levels."""
    marked = np.clip(draw(n, 0, rng)[0] + np.rint(trace * BOARD), 0, 255).astype(np.uint8)
    return SyntheticSet(Path("memory"), marked, np.zeros(n, np.int64), tuple(f"{number}-{i}" for i in range(n)), "")


def trained(images: Array, labels: Array, rng: np.random.Generator) -> Linear:
    """Return ridge regression on a resample of the images: trainings of one regime differ by chance alone."""
    chosen = rng.integers(0, len(images), len(images))
    x, y = images[chosen].reshape(len(chosen), -1) / 255.0, labels[chosen].astype(float)
    x, y = x - x.mean(axis=0), y - y.mean()
    return Linear(np.linalg.solve(x.T @ x + 0.05 * np.eye(x.shape[1]), x.T @ y))


def studies_of(
    minority: int, trace: float, k: int, g: int, number: int
) -> Iterator[tuple[str, int, list[MeterScores], list[str]]]:
    """Yield the scores of every trial of a study: regime, trial seed, one for each set, and the patients."""
    rng = np.random.default_rng([number, minority, k, g])
    data = data_of(minority, rng)
    sets = [set_of(MAJORITY - minority, trace, s, rng) for s in range(g)]
    prepared, real = probes(data, sets, number), data.indices("train")
    pixels, labels = data.images[real], data.labels[real]
    for seed in range(k):
        model = trained(pixels, labels, rng)
        row = [s for _, _, s, _ in measure(model, data, prepared, dict(enumerate(sets)), None, UNIT, CPU)]
        yield "baseline", seed, row, data.groups
        row = []
        for i, of in enumerate(sets):
            model = trained(np.concatenate([pixels, of.images]), np.concatenate([labels, of.labels]), rng)
            row += [s for _, _, s, _ in measure(model, data, prepared, {i: of}, of, UNIT, CPU)]
        yield "gan", seed, row, data.groups


def check_images(
    minority: int, trace: float, k: int, g: int, studies: int, resamples: int, halvings: list[int]
) -> dict[int, list[float]]:
    """Return by the number of halvings the shares of COLUMNS in per cent."""
    rows: dict[int, list[list[float]]] = {h: [] for h in halvings}
    with progress.bar(studies, f"{minority} images, trace {trace:g}, {g} GAN seed(s)", "study") as bar:
        for number in range(studies):
            trials = list(studies_of(minority, trace, k, g, number))
            for h in halvings:
                cells: dict[str, dict[int, list[Resampled]]] = {}
                for regime, seed, scores, groups in trials:
                    fewer = [replace(s, control=s.control[:, : 2 * max(h, 1)]) for s in scores]
                    row = [resample(s, groups, number, resamples) for s in fewer]
                    fixed = tuple(np.zeros(1) for _ in TRACES)
                    cells.setdefault(regime, {})[seed] = row if h else [replace(of, controls=fixed) for of in row]
                shown = trials[0][2][0].index
                patients = len({trials[0][3][i] for i in shown})
                ours, theirs = (measured(cells[name], patients) for name in ("gan", "baseline"))
                results = [trace_result(t, name, ours, {"baseline": theirs}) for t, name in enumerate(TRACES)]
                rows[h].append(_outcome(results))
            bar.update()
    return {h: [float(100 * share) for share in np.mean(of, axis=0)] for h, of in rows.items()}


def _outcome(results: list[TraceResult]) -> list[float]:
    """Return whether a regime is said to read, and whether a trace is above each control."""
    above = [any(_shares(result)[i].low > 0 for result in results) for i in (1, 2)]
    return [float(of) for of in (any(result.exceeds for result in results), *above)]


def main() -> None:
    """Print both parts as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100, help="a line of images; of scores, five times as many")
    parser.add_argument("--resamples", type=int, default=100, help="of patients, in each study (a study takes 1,000)")
    parser.add_argument("--trial-seeds", type=int, default=3)
    parser.add_argument("--gan-seeds", default="2,3")
    parser.add_argument("--minority", default="50,400", help="real training images of the synthetic class")
    parser.add_argument("--trace", default="0", help="grey levels of the checkerboard")
    parser.add_argument(
        "--halvings", default="1,4", help="that give controls: a study has 4, and had 1; 0: chance left out"
    )
    parser.add_argument("--parts", default="scores,images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin, gans = time.perf_counter(), [int(g) for g in args.gan_seeds.split(",")]
    if "scores" in args.parts.split(","):
        _print_scores(args, gans)
    if "images" in args.parts.split(","):
        _print_images(args, gans)
    print(f"\n{(time.perf_counter() - begin) / 60:.1f} minutes")


def _print_scores(args: argparse.Namespace, gans: list[int]) -> None:
    print("| true share | SD over trial seeds, over sets | GAN seeds | share | beyond real | beyond the regime |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for moves, g in itertools.product(MOVES, gans):
        covered = check_scores(moves, args.trial_seeds, g, 5 * args.studies, args.resamples)
        cells = " | ".join(f"{c:.1f}" for c in covered)
        share = stats.norm.cdf(moves.mean / 2**0.5)
        print(f"| {share:.2f} | {moves.trial}, {moves.gan} | {g} | {cells} |", flush=True)
    print()


def _print_images(args: argparse.Namespace, gans: list[int]) -> None:
    print(f"| images | checkerboard | GAN seeds | halvings | {' | '.join(COLUMNS)} |")
    print(f"| ---: | ---: | ---: | ---: |{' ---: |' * len(COLUMNS)}")
    minorities, traces = [int(n) for n in args.minority.split(",")], [float(a) for a in args.trace.split(",")]
    halvings = [int(h) for h in args.halvings.split(",")]
    for minority, trace, g in itertools.product(minorities, traces, gans):
        rows = check_images(minority, trace, args.trial_seeds, g, args.studies, args.resamples, halvings)
        for h, shares in rows.items():
            print(f"| {minority} | {trace:g} | {g} | {h} |", " | ".join(f"{s:.1f}" for s in shares), "|", flush=True)


if __name__ == "__main__":
    main()
