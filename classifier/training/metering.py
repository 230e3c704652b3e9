"""The shortcut meter's images, and the scores that a trained classifier gives them.

All classifiers of a study are shown the same images. They are real images of validation, never of test: the meter is a
diagnosis. Nothing is trained, and no random number of the training is drawn. The figures of these scores are made by
:mod:`classifier.evaluation.shortcut`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from balancer.core.device import exact_float32
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from balancer.data.sampling import evenly
from balancer.metrics.resampling import even_folds
from balancer.metrics.traces import TRACES, Filter
from balancer.metrics.two_sample import OutOfFold, logistic_scores
from classifier.evaluation.shortcut import MeterScores
from classifier.training.prediction import input_chunks, log_odds, predict_with_features
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray
MOST_SHOWN = 200  # real images that get the trace
MOST_COMPARED = 150  # images of a class on each side, whose features are compared
MOST_FITTED = 500  # images on each side that a trace is fitted to
FOLDS = 5  # of the comparison of features
HALVINGS = 4  # of the real patients: each gives two controls of a trace, either way round
FEWEST_PATIENTS = 2 * FOLDS  # of validation


@dataclass(frozen=True)
class Probe:
    """What classifiers are shown for one class that has synthetic images. Positions are in the data set."""

    label: int
    index: Array  # (n,) real validation images of the other classes
    filters: Mapping[int, tuple[Filter, ...]]  # put each trace on an image; by position of the synthetic set
    controls: tuple[tuple[Filter, ...], ...]  # the same of each trace, fitted to two halves of the real images: halving
    # by halving, one way round and then the other
    held_out: Array  # (m,) real validation images of the class; empty where their patients are too few
    trained: Array  # (m,) real training images of the class, as many
    halves: tuple[Array, Array]  # of the held-out images, as many in each; empty where their patients are too few
    seed: int


def probes(data: Dataset, sets: Sequence[SyntheticSet], seed: int) -> list[Probe]:
    """Return the probes of each class that has synthetic images; none where validation has too few other patients."""
    made = []
    for label in sorted({label for s in sets for label in s.held}):
        others = np.flatnonzero((data.folds == "val") & (data.labels != label))
        holding = {i: s.images[s.labels == label] for i, s in enumerate(sets) if label in s.held}
        train, stream = data.indices("train", label), derive_seed(seed, "meter", label)
        halves = _halves(data, train, stream)
        fitted = min([MOST_FITTED, len(halves[0]), *map(len, holding.values())])
        if _patients(data, others) < FEWEST_PATIENTS or fitted < 1:
            continue
        compared = min([MOST_COMPARED, len(data.indices("val", label)), len(train), *map(len, holding.values())])
        held_out, trained = (_some(data.indices(fold, label), compared) for fold in ("val", "train"))
        if min(_patients(data, held_out), _patients(data, trained)) < FEWEST_PATIENTS:
            held_out = trained = train[:0]
        more = (_halves(data, train, derive_seed(stream, "halving", h)) for h in range(1, HALVINGS))
        halvings = [[data.images[_some(half, fitted)] for half in both] for both in (halves, *more)]
        real = data.images[_some(train, fitted)]
        halved = _halves(data, held_out, stream)
        if min(_patients(data, half) for half in halved) < FEWEST_PATIENTS:
            halved = train[:0], train[:0]
        traces = TRACES.values()
        filters = {i: tuple(t.fit(_some(images, fitted), real) for t in traces) for i, images in holding.items()}
        ways = [way for a, b in halvings for way in ((a, b), (b, a))]
        controls = tuple(tuple(t.fit(*way) for way in ways) for t in traces)
        shown = _some(others, MOST_SHOWN)
        made.append(Probe(label, shown, filters, controls, held_out, trained, halved, stream))
    return made


def _halves(data: Dataset, index: Array, seed: int) -> tuple[Array, Array]:
    """Return the positions of images in two random halves of their patients, as many in each."""
    if not len(index):
        return index, index
    half = even_folds([data.groups[i] for i in index], 2, seed)
    sides = index[half == 0], index[half == 1]
    least = min(map(len, sides))
    return _some(sides[0], least), _some(sides[1], least)


def _some(items: Array, most: int) -> Array:
    """Return at most so many of the items, evenly spread."""
    return items[evenly(len(items), most)]


def _patients(data: Dataset, index: Array) -> int:
    return len({data.groups[i] for i in index})


def measure(
    model: nn.Module,
    data: Dataset,
    prepared: Sequence[Probe],
    sets: Mapping[int, SyntheticSet],
    used: SyntheticSet | None,
    config: ClassifierConfig,
    device: torch.device,
) -> Iterator[tuple[Probe, int, MeterScores, bool]]:
    """Yield the scores of a classifier for each probe and synthetic set, and whether it was trained on these images.

    Args:
        model: the trained classifier.
        data: the real images.
        prepared: of :func:`probes`.
        sets: the synthetic sets to measure with, by position in the study.
        used: the images that the classifier was trained on, of one of the sets; None: of none.
        config: gives the network's input.
        device: where to compute.
    """

    def scores(images: Array, label: int) -> Array:
        return _class_scores(model, images, label, config, device)

    def features(images: Array) -> Array:
        return predict_with_features(model, images, config, device)[1] if len(images) else np.empty((0, 0))

    for probe in prepared:
        images, label = data.images[probe.index], probe.label
        plain = scores(images, label)
        control = np.array([[scores(put(images), label) for put in of_trace] for of_trace in probe.controls])
        real = features(data.images[probe.held_out])
        for position in sorted(sets.keys() & probe.filters.keys()):
            traced = np.stack([scores(put(images), label) for put in probe.filters[position]])
            synthetic, trained_on = _compared(sets[position], used, label, len(probe.held_out))
            apart = _apart(probe, real, features(synthetic), data, probe.held_out)
            # The control must have seen as much: trainings make their own images stand apart from held-out ones
            left, right = (probe.held_out, probe.trained) if trained_on else probe.halves
            same = _apart(probe, features(data.images[left]), features(data.images[right]), data, left, right)
            yield (
                probe,
                position,
                MeterScores(
                    probe.index,
                    plain,
                    traced,
                    control,
                    probe.held_out,
                    apart.scores,
                    apart.fold,
                    left,
                    right,
                    same.scores,
                    same.fold,
                ),
                trained_on,
            )


def forward_passes(data: Dataset, sets: Sequence[SyntheticSet], shown: int) -> int:
    """Return how many images a classifier predicts for the meter at most, with so many of the sets shown."""
    passes = 0
    for label in sorted({label for s in sets for label in s.held}):
        n_class = len(data.indices("val", label))
        traced = min(MOST_SHOWN, len(data.indices("val")) - n_class)
        passes += traced * (1 + len(TRACES) * (2 * HALVINGS + shown)) + min(MOST_COMPARED, n_class) * (1 + 3 * shown)
    return passes


def _compared(synthetic: SyntheticSet, used: SyntheticSet | None, label: int, n: int) -> tuple[Array, bool]:
    """Return n synthetic images of a class, and whether they were trained on: not if the set has as many others."""
    of_class = synthetic.labels == label
    seen = of_class & np.isin(synthetic.hashes, () if used is None else used.hashes)
    unseen = synthetic.images[of_class & ~seen]
    if len(unseen) >= max(n, 1):
        return _some(unseen, n), False
    return _some(synthetic.images[seen if seen.sum() >= n else of_class], n), True


def _apart(
    probe: Probe, left: Array, right: Array, data: Dataset, index: Array, others: Array | None = None
) -> OutOfFold:
    """Return how features (m, F) tell the right images from the left ones, out of fold; nothing of no images.

    ``index`` and ``others`` hold the positions of either side; no positions on the right: synthetic images.
    """
    if not len(left):
        nothing = np.empty(0, np.int64)
        return OutOfFold(np.empty(0), nothing, nothing, nothing)
    groups = [data.groups[i] for i in index]
    right_groups = None if others is None else [data.groups[i] for i in others]
    return logistic_scores(left, right, groups, probe.seed, FOLDS, right_groups)


@torch.no_grad()
def _class_scores(model: nn.Module, images: Array, label: int, config: ClassifierConfig, device: torch.device) -> Array:
    """Return the log-odds (n,) of a class for images, in evaluation mode, float64."""
    model.eval()
    with exact_float32(device):
        parts = [log_odds(model(chunk), label) for chunk in input_chunks(images, config, device)]
    return np.asarray(torch.cat(parts).numpy())
