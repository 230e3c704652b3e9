"""The shortcut meter: has a classifier learnt that being synthetic means a class? Its figures, from scores.

Real validation images of the other classes are given the trace of the synthetic images of a class. The share of pairs
says how far the classifier's score for that class moves: of an image with the trace and one without, how often does the
first have the higher score? One half: the trace moves nothing. One: each image with the trace looks more like the class
than any without. docs/statistics.md has the formulas. The scores are made by :mod:`classifier.training.metering`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from balancer.core.seeding import derive_seed
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import STRETCH, fold_aurocs, group_numbers, patient_weights

Array = np.ndarray


@dataclass(frozen=True)
class MeterScores:
    """What a classifier made of the images of the meter, for one class of one synthetic set.

    Scores are the log-odds of the class. Positions are in the data set. Where validation has too few patients of the
    class, the arrays of features are empty.
    """

    index: Array  # (n,) positions of the real validation images of the other classes
    plain: Array  # (n,) scores as they are
    traced: Array  # (T, n) with each trace of the synthetic images
    control: Array  # (T, J, n) with the same traces of real images against real images, each way round beside the other
    held_out: Array  # (m,) positions of real validation images of the class
    features: Array  # (2 m,) scores of being synthetic by the features: held-out images, then synthetic ones
    fold: Array  # (2 m,) of the cross-validation of these scores
    left: Array  # (c,) positions of real images of the class, to be told from
    right: Array  # (c,) these real images of the class: the control
    control_features: Array  # (2 c,) scores of being on the right
    control_fold: Array  # (2 c,)

    def arrays(self, prefix: str) -> dict[str, Array]:
        """Return the arrays by name, for a file."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], prefix: str, traces: int) -> Self:
        """Return what :meth:`arrays` gave, with so many traces.

        Raises:
            KeyError: an array is missing.
            ValueError: an array is of another kind or shape, or a score is not finite.
        """
        scores = cls(*(arrays[f"{prefix}{field.name}"] for field in fields(cls)))
        n, m, c = len(scores.index), len(scores.held_out), len(scores.left)
        positions = {"index": (n,), "held_out": (m,), "left": (c,), "right": (c,)}
        positions |= {"fold": (2 * m,), "control_fold": (2 * c,)}
        floats = {"plain": (n,), "traced": (traces, n), "control": (traces, *scores.control.shape[1:2], n)}
        floats |= {"features": (2 * m,), "control_features": (2 * c,)}
        for name, shape in (positions | floats).items():
            array, kinds = getattr(scores, name), "iu" if name in positions else "f"
            if array.shape != shape or array.dtype.kind not in kinds or not np.isfinite(array).all():
                raise ValueError(f"{prefix}{name} is {array.dtype} of shape {array.shape}, expected shape {shape}")
        if any((getattr(scores, name) < 0).any() for name in positions) or not (n and scores.control.size):
            raise ValueError(f"{prefix}index is empty, or a position is below 0")
        return scores

    def largest_position(self) -> int:
        """Return the largest position in the data set."""
        return max(int(p.max(initial=-1)) for p in (self.index, self.held_out, self.left, self.right))


@dataclass(frozen=True)
class Share:
    """A share of pairs with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TraceReading:
    """How far a trace moves the score of one classifier."""

    trace: str  # a name in balancer.metrics.traces.TRACES
    traced: Share  # of pairs in which the image with the trace has the higher score for the class
    control: Share  # the same, with the trace of real images against real images
    shift: float  # median change of the score by the trace, in logits
    control_shift: float


@dataclass(frozen=True)
class Reading:
    """What the meter says of one classifier, for one class of one synthetic set; intervals are over patients alone."""

    synthetic_set: str  # position of the set in the study's list
    class_name: str
    n: int  # real validation images of the other classes
    traces: tuple[TraceReading, ...]
    n_features: int  # images of the class on each side; 0 where validation has too few patients of the class
    features: Share | None = None  # AUROC of synthetic against held-out real images of the class, by the features
    features_control: Share | None = None  # the same of real images against real ones
    trained_on: bool = False  # whether these synthetic images were trained on; the control then has training images


@dataclass(frozen=True)
class Resampled:
    """Shares of pairs on the sample, then on resamples of patients, (1 + resamples,); None: not measured."""

    traced: tuple[Array, ...]  # with each trace
    control: tuple[Array, ...]  # the mean over the controls of each trace
    controls: tuple[Array, ...]  # the share (J,) of each control on the sample
    features: Array | None
    features_control: Array | None


def resample(scores: MeterScores, patients: Sequence[str], seed: int, resamples: int) -> Resampled:
    """Return the shares of one classifier on the sample and on resamples of patients.

    Args:
        scores: of the classifier.
        patients: of every image of the data set.
        seed: of the resamples, the same for all classifiers that are compared.
        resamples: their number.
    """
    groups = np.asarray(patients)
    labels = np.zeros(len(scores.index), dtype=np.int64)  # all alike: patients are drawn whatever their class
    weights = patient_weights(labels, groups[scores.index], resamples, seed, classes=1)
    sides, twice = np.repeat([0, 1], len(labels)), np.concatenate([weights, weights], axis=1)

    def share(moved: Array) -> Array:
        return weighted_auroc(sides, np.concatenate([scores.plain, moved]), twice)

    def told_apart(score: Array, fold: Array, left: Array, right: Array, name: str) -> Array | None:
        if not len(score):
            return None
        units = np.concatenate([group_numbers(left), group_numbers(right)])
        stream = derive_seed(seed, "meter", name)
        aurocs = fold_aurocs(score, np.repeat([0, 1], len(left)), fold, units, stream, resamples)
        stretched: Array = np.append(aurocs[:1], aurocs[0] + STRETCH * (aurocs[1:] - aurocs[0]))
        return stretched

    s = scores
    synthetic = np.arange(len(s.held_out))  # each counts by itself
    controls = [[share(moved) for moved in of_trace] for of_trace in s.control]
    return Resampled(
        tuple(share(moved) for moved in s.traced),
        tuple(np.mean(of_trace, axis=0) for of_trace in controls),
        tuple(np.array([values[0] for values in of_trace]) for of_trace in controls),
        told_apart(s.features, s.fold, groups[s.held_out], synthetic, "features"),
        told_apart(s.control_features, s.control_fold, groups[s.left], groups[s.right], "control"),
    )
