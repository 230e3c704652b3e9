"""The shortcut meter over the trials of a study: figures with intervals, and what they say. See docs/statistics.md.

A regime's classifiers *read* being synthetic as a class if their share of pairs exceeds two controls, each difference
with its interval. One control is the trace of real images against real images. The others are the regimes without
synthetic images that have the same augmentation: their classifiers never saw the trace, so what they make of it is no
shortcut. Of these regimes the one counts that comes nearest. The balance of classes alone can move the share, so copies
of real images are a better control than nothing added. Without any such regime nothing is judged.

A trace is fitted to few images, and chance gives it a direction of its own, which moves all images alike. What chance
does to the share is measured by the controls of several halvings. It is a part of the variance of both differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from balancer.core.files import JsonObject
from balancer.metrics.resampling import FEWER_RESAMPLES
from balancer.metrics.traces import TRACES
from balancer.reporting.numbers import bounds, signed, with_interval
from classifier.analysis.results import StudyResults, TrialResult
from classifier.analysis.statistics import crossed_estimate, interval_with, share_interval
from classifier.analysis.verdicts import too_few_seeds
from classifier.evaluation.shortcut import MeterScores, Reading, Resampled, Share, TraceReading, resample
from classifier.training.regimes import REGIMES

Array = np.ndarray
SLIGHT = 0.05  # of all pairs: what is read moves little


def reading_of(
    scores: MeterScores, synthetic_set: str, class_name: str, trained_on: bool, patients: Sequence[str], seed: int
) -> Reading:
    """Return what the scores of one classifier say, with intervals over patients.

    Args:
        scores: of the classifier, with the traces of :data:`~balancer.metrics.traces.TRACES` in their order.
        synthetic_set: position of the set in the study.
        class_name: of the synthetic images.
        trained_on: whether the classifier was trained on the synthetic images that were compared.
        patients: of every image of the data set.
        seed: of the resamples.
    """
    values, few = resample(scores, patients, seed, FEWER_RESAMPLES), Patients.of(scores, patients)
    traces = tuple(
        TraceReading(
            name,
            _share(_single(values.traced[t]), few.shown),
            _share(_single(values.control[t]), few.shown),
            float(np.median(scores.traced[t] - scores.plain)),
            float(np.median(scores.control[t] - scores.plain)),
        )
        for t, name in enumerate(TRACES)
    )
    return Reading(
        synthetic_set,
        class_name,
        len(scores.index),
        traces,
        len(scores.held_out),
        None if values.features is None else _share(_single(values.features), few.held_out),
        None if values.features_control is None else _share(_single(values.features_control), few.control),
        trained_on,
    )


@dataclass(frozen=True)
class TraceResult:
    """How far a trace moves the score of a regime's classifiers for the class of the synthetic images."""

    trace: str
    traced: Share  # of pairs in which the image with the trace has the higher score
    control: Share  # the same, with the trace of real images against real images
    beyond_control: Share  # the difference of the two
    reference: str | None  # the regime without synthetic images that comes nearest; None if none was measured beside
    beyond_reference: Share | None  # the difference from that regime
    shift: float  # median change of the score by the trace, in logits: mean over trials
    control_shift: float

    @property
    def exceeds(self) -> bool:
        """Return whether the share exceeds both controls."""
        beyond = self.beyond_reference
        return beyond is not None and min(self.beyond_control.low, beyond.low) > 0


@dataclass(frozen=True)
class MeterResult:
    """What the meter says of the classifiers of a regime, for one class of the synthetic images."""

    regime: str
    class_name: str
    n: int  # real validation images of the other classes
    trial_seeds: int
    gan_seeds: int  # synthetic sets
    traces: tuple[TraceResult, ...]
    n_features: int  # images on each side; 0 where too few
    features: Share | None  # AUROC of synthetic against held-out real images of the class, by the features
    features_control: Share | None  # of real images against real ones
    trained_on: bool  # whether classifiers were trained on the synthetic images whose features were compared
    halvings: int  # of the real patients, whose controls measure what chance does in the fit of a trace

    @property
    def is_synthetic(self) -> bool:
        """Return whether the regime's classifiers were trained on synthetic images."""
        return REGIMES[self.regime].synthetic

    @property
    def is_judged(self) -> bool:
        """Return whether a regime without synthetic images was measured beside this one with them."""
        return self.is_synthetic and all(trace.reference for trace in self.traces)

    @property
    def reads(self) -> bool:
        """Return whether the classifiers read being synthetic as the class, by one of the traces."""
        return self.is_synthetic and any(trace.exceeds for trace in self.traces)

    @property
    def is_slight(self) -> bool:
        """Return whether what is read moves less than :data:`SLIGHT` of all pairs."""
        return (
            self.reads
            and max(t.beyond_reference.value for t in self.traces if t.exceeds and t.beyond_reference) < SLIGHT
        )

    @property
    def verdict(self) -> str:
        """Return ``read``, ``slightly`` or ``not seen``; ``control`` for a regime without synthetic images.

        ``no reference``: no regime without synthetic images was measured beside it, so nothing is judged.
        """
        if not self.is_judged:
            return "no reference" if self.is_synthetic else "control"
        return ("slightly" if self.is_slight else "read") if self.reads else "not seen"

    @property
    def sentence(self) -> str:
        """Return what a reader must know of a regime with synthetic images."""
        first, *others = [f"{TRACES[t.trace].words}{{}} in {self._effect(t)}" for t in self.traces]
        compared = f", a real image of another class scores higher for {self.class_name} than one without"
        verb = f"{'slightly ' * self.is_slight}reads" if self.reads else "is not seen to read"
        verb = (
            verb if self.is_judged else f"cannot be judged without {REGIMES[self.regime].reference}: whether it reads"
        )
        text = (
            f"{self.regime} {verb} being synthetic as {self.class_name}. With the synthetic set's"
            f" {'; with its '.join([first.format(compared), *(other.format('') for other in others)])}."
        )
        if self.features is not None:
            control = f" (real against real {in_words(self.features_control)})" if self.features_control else ""
            text += (
                f" The features rank a synthetic {self.class_name} image above a held-out real one in"
                f" {in_words(self.features)} of pairs{control}."
            )
        few = too_few_seeds(self.trial_seeds)
        return f"{text} {few[0].upper()}{few[1:]}." if few else text

    def _effect(self, trace: TraceResult) -> str:
        beyond = trace.beyond_reference
        beside = "" if beyond is None else f", {difference_in_words(beyond)} beyond {trace.reference}"
        return f"{in_words(trace.traced)} of pairs (real against real {in_words(trace.control)}{beside})"

    def to_json(self) -> JsonObject:
        """Return the result as it stands in ``analysis.json``."""
        return {**asdict(self), "verdict": self.verdict, **({"sentence": self.sentence} if self.is_synthetic else {})}


def in_words(share: Share) -> str:
    """Return ``.93 [.90, .96]``."""
    return with_interval(share.value, share.low, share.high, 2)


def difference_in_words(share: Share) -> str:
    """Return ``+.43 [.40, .46]``."""
    return f"{signed(share.value, 2)} {bounds(share.low, share.high, 2)}"


def meter_results(results: StudyResults, seed: int, resamples: int = FEWER_RESAMPLES) -> list[MeterResult]:
    """Return the results of every regime that was measured, class by class; nothing for a study without the meter.

    A trial seed counts if it was measured with every synthetic set.

    Args:
        results: trials with the scores of their readings.
        seed: of the resamples of validation patients.
        resamples: their number.
    """
    main = results.main
    readings = [reading for trial in main.trials for reading in trial.meter]
    sets = sorted({reading.synthetic_set for reading in readings}, key=lambda name: (len(name), name))
    made = []
    for class_name in dict.fromkeys(reading.class_name for reading in readings):
        measured = {
            regime: of
            for regime in main.regimes
            if (of := Measured.of(main.arms[regime], class_name, sets, results.patients, seed, resamples)).cells
        }
        for regime, ours in measured.items():
            controls = {
                name: theirs
                for name, theirs in measured.items()
                if _is_control(name, regime) and ours.cells.keys() & theirs.cells.keys()
            }
            made.append(_result(regime, class_name, ours, controls))
    return made


def _is_control(name: str, regime: str) -> bool:
    """Return whether classifiers of ``name`` show what those of ``regime``, which has synthetic images, do anyway."""
    theirs, ours = REGIMES[name], REGIMES[regime]
    return ours.synthetic and not theirs.synthetic and theirs.augment == ours.augment


@dataclass(frozen=True)
class Patients:
    """The number of patients that a share rests on, on the side that has fewer."""

    shown: int
    held_out: int
    control: int

    @classmethod
    def of(cls, scores: MeterScores, patients: Sequence[str]) -> Patients:
        """Count the patients of scores; ``patients`` are those of every image of the data set."""
        shown, held_out, left, right = (
            len({patients[i] for i in index}) for index in (scores.index, scores.held_out, scores.left, scores.right)
        )
        return cls(shown, held_out, min(left, right))


@dataclass(frozen=True)
class Measured:
    """The readings of a regime for a class: by trial seed, one for each synthetic set."""

    cells: dict[int, list[tuple[Reading, Resampled]]]
    patients: Patients

    @classmethod
    def of(
        cls,
        trials: Sequence[TrialResult],
        class_name: str,
        sets: Sequence[str],
        patients: Sequence[str],
        seed: int,
        resamples: int,
    ) -> Measured:
        """Return the readings of trials, of the seeds that have every set."""
        by_seed: dict[int, dict[str, tuple[Reading, MeterScores]]] = {}
        for trial in trials:
            of_class = {
                reading.synthetic_set: (reading, scores)
                for reading, scores in zip(trial.meter, trial.meter_scores, strict=True)
                if reading.class_name == class_name and [trace.trace for trace in reading.traces] == [*TRACES]
            }
            by_seed.setdefault(trial.trial_seed, {}).update(of_class)
        complete = {k: [of[s] for s in sets] for k, of in sorted(by_seed.items()) if of.keys() == set(sets)}
        cells = {
            k: [(reading, resample(scores, patients, seed, resamples)) for reading, scores in row]
            for k, row in complete.items()
        }
        first = next((scores for row in complete.values() for _, scores in row), None)
        return cls(cells, Patients(0, 0, 0) if first is None else Patients.of(first, patients))

    @property
    def readings(self) -> list[Reading]:
        """Return the readings of every trial seed and set."""
        return [reading for row in self.cells.values() for reading, _ in row]

    def values(self, part: Callable[[Resampled], Array], seeds: Sequence[int] | None = None) -> Array:
        """Return a part of what was measured, (1 + resamples, trial seeds, synthetic sets)."""
        rows = [[part(of) for _, of in self.cells[k]] for k in (self.cells if seeds is None else seeds)]
        stacked: Array = np.moveaxis(np.array(rows), -1, 0)
        return stacked

    def chance(self, t: int, seeds: Sequence[int]) -> Array:
        """Return the share (J,) of each control of trace number ``t``, over these trial seeds and all sets.

        Trials of different versions may differ in the number of controls: those that all have count.
        """
        shares = [of.controls[t] for k in seeds for _, of in self.cells[k]]
        mean: Array = np.mean([share[: min(map(len, shares))] for share in shares], axis=0)
        return mean

    def features(self, part: Callable[[Resampled], Array | None], patients: int) -> Share | None:
        """Return the share of a part that has the features; None if a cell lacks the part."""
        rows = [[value for _, of in row if (value := part(of)) is not None] for row in self.cells.values()]
        if any(len(row) < len(of_seed) for row, of_seed in zip(rows, self.cells.values(), strict=True)):
            return None
        return _share(np.moveaxis(np.array(rows), -1, 0), patients)


def _result(regime: str, class_name: str, ours: Measured, controls: Mapping[str, Measured]) -> MeterResult:
    """Return what the meter says of a regime, beside those without synthetic images."""
    first, few = ours.readings[0], ours.patients
    return MeterResult(
        regime,
        class_name,
        first.n,
        len(ours.cells),
        len(next(iter(ours.cells.values()))),
        tuple(trace_result(t, reading.trace, ours, controls) for t, reading in enumerate(first.traces)),
        first.n_features,
        ours.features(lambda of: of.features, few.held_out),
        ours.features(lambda of: of.features_control, few.control),
        any(reading.trained_on for reading in ours.readings),
        len(ours.chance(0, list(ours.cells))) // 2,
    )


def trace_result(t: int, name: str, ours: Measured, controls: Mapping[str, Measured]) -> TraceResult:
    """Return how far trace number ``t`` moves the scores of a regime; ``controls`` are regimes by name, or none."""
    patients = ours.patients.shown
    traced, control = ours.values(lambda of: of.traced[t]), ours.values(lambda of: of.control[t])
    beyond = {regime: _beyond(t, ours, theirs) for regime, theirs in controls.items()}
    nearest = min(beyond, key=lambda regime: beyond[regime].low, default=None)
    return TraceResult(
        name,
        _share(traced, patients),
        _share(control, patients),
        _difference(traced - control, patients, ours.chance(t, list(ours.cells))),
        nearest,
        None if nearest is None else beyond[nearest],
        float(np.mean([reading.traces[t].shift for reading in ours.readings])),
        float(np.mean([reading.traces[t].control_shift for reading in ours.readings])),
    )


def _beyond(t: int, ours: Measured, theirs: Measured) -> Share:
    """Return how much further trace number ``t`` moves one regime's scores than another's, over their common seeds."""
    seeds = [k for k in ours.cells if k in theirs.cells]
    left, right = (of.values(lambda of: of.traced[t], seeds) for of in (ours, theirs))
    both = [of.chance(t, seeds) for of in (ours, theirs)]
    n = min(map(len, both))
    return _difference(left - right, ours.patients.shown, both[0][:n] - both[1][:n])


def _single(values: Array) -> Array:
    """Return the values (1 + resamples,) of one trial as those of one seed and one set."""
    return values[:, None, None]


def _share(values: Array, patients: int) -> Share:
    """Return a share of pairs, for values (1 + resamples, trial seeds, synthetic sets)."""
    estimate = crossed_estimate(values, patients)
    return Share(estimate.value, *share_interval(estimate, patients))


def _difference(values: Array, patients: int, controls: Array) -> Share:
    """Return a difference of two shares, with its interval.

    Args:
        values: (1 + resamples, trial seeds, synthetic sets).
        patients: the number that it rests on.
        controls: (J,) the same difference with each control: what chance in the fit of a trace makes of it. The two
            ways round of a halving move a share to either side by as much. So a halving has one degree of freedom.
    """
    estimate = crossed_estimate(values, patients, limit=1.0)
    low, high = interval_with(estimate, float(np.var(controls)), max(len(controls) // 2, 1))
    return Share(estimate.value, max(low, -1.0), min(high, 1.0))
