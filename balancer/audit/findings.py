"""What a data set holds that can make a result look better than it is: leaks between folds, copies, and shortcuts.

Two keys stand for a patient, since file names restart their numbers. Under the narrow key, kind and number
(``bacteria``, ``virus``, or the source prefix of a normal image), images are of one patient. Under the cautious key,
the number within the class, images may be of one patient, so splits are grouped by it. Images of one narrow key in two
folds are a leak; images that share the cautious key alone are a caveat. Where a table or a pattern names the patients,
their keys are of the whole data set, and the narrow key is the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from balancer.audit.patients import FOLD_SIDES, patients
from balancer.audit.properties import OF_COLOURS, is_measured, measure
from balancer.audit.results import (
    Audit,
    ByClass,
    Counts,
    IdenticalFiles,
    IdenticalGroup,
    NearDuplicates,
    NearPair,
    PropertyResult,
    SharedFiles,
    SharedPairs,
    Shortcuts,
    Sides,
    Sources,
)
from balancer.audit.shortcuts import shortcuts
from balancer.audit.sources import sources
from balancer.core.settings import DataConfig
from balancer.core.speed import slowness
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.digests import equal_positions
from balancer.data.near_duplicates import COPY, SUSPECT, SimilarPair, Thumbnails, near_duplicates
from balancer.data.records import SPLITS, is_patient
from balancer.data.similar_hashes import MOST_COMPARED
from balancer.metrics.resampling import AurocInterval
from balancer.reporting.numbers import plural, short

Array = np.ndarray
CLOSEST = 8  # pairs below the threshold that are shown all the same
SECONDS, SECONDS_A_FILE = 11.0, 0.003  # rough, on one core of the reference machine


@dataclass(frozen=True)
class Separation:
    """How well the classes can be told without the anatomy: AUROCs on the larger side, None where chance does as much.

    Attributes:
        measured: any property varies, or all together could be tested.
        together: of all properties, by a logistic regression.
        alone: of the strongest property, called ``words``.
    """

    measured: bool
    together: float | None
    alone: float | None
    words: str

    @property
    def strongest(self) -> float | None:
        """Return the larger AUROC; None if nothing separates the classes."""
        return max((v for v in (self.together, self.alone) if v is not None), default=None)


def audit(data: Dataset, config: DataConfig, seed: int = 0) -> Audit:
    """Return everything that the audit finds; the first time, every file is read once more.

    Args:
        data: folders, phantom or archive. An archive names no patients and has no files, and the audit says so.
        config: the settings that ``data`` was loaded with.
        seed: of resampling and cross-validation; see :func:`balancer.audit.shortcuts.shortcuts`.

    Raises:
        BalancerError: a file can no longer be read.
    """
    measured = measure(data)
    splits = np.array([record.split for record in data.records])
    return Audit(
        data={**data.describe(), "resize": config.resize, "split_seed": config.split_seed},
        counts=Counts(_counts(splits, data), _counts(data.folds, data)),
        patients=patients(data, splits),
        identical=_identical(data, splits),
        near=_near(data, measured.thumbnails),
        shortcuts=shortcuts(data, measured, seed),
        sources=sources(data, seed),
    )


def estimate_seconds(data: Dataset) -> float:
    """Return a rough estimate; what was measured before comes from the cache."""
    return (SECONDS + (0 if is_measured(data) else SECONDS_A_FILE * len(data.records))) * slowness()


def leaks(audit: Audit) -> list[str]:
    """Return one phrase for each way in which training data reach validation or test; empty if there is none.

    These count: identical files, verified near duplicates and patients by the narrow key in two folds, and identical
    files of two classes. A number that may be of two patients is no leak; see :func:`caveats`.
    """
    phrases = [
        f"{plural(shared.groups, 'identical file')} both in {shared.left} and in {shared.right}"
        for shared in audit.identical.folds
        if shared.groups
    ]
    phrases += leaks_beyond_copies(audit)
    if conflicts := audit.identical.label_conflicts:
        phrases.append(
            f"{plural(conflicts, 'identical file')} under {'both' if len(audit.classes) == 2 else 'several'} classes"
        )
    return phrases


def leaks_beyond_copies(audit: Audit) -> list[str]:
    """Return the phrases of :func:`leaks` that an audit alone tells; of identical files the data's own notes tell."""
    phrases = [
        f"{plural(shared.pairs, 'near duplicate')} between {shared.left} and {shared.right}"
        for shared in audit.near.folds
        if shared.pairs
    ]
    for across in audit.patients.narrow.folds if audit.patients.narrow else ():
        patients, (left, right) = sum(across.patients.values()), np.sum(list(across.images.values()), axis=0)
        if patients:
            phrases.append(
                f"{plural(patients, 'patient')} both in {across.left} and in {across.right} ({left} and {right} images)"
            )
    return phrases


def open_questions(audit: Audit) -> list[str]:
    """Return a phrase for each leak that these data can neither show nor exclude, the gravest first."""
    patients, questions = audit.patients, []
    if patients.named < patients.images:
        whose = "any image" if not patients.named else f"{patients.images - patients.named:,} images"
        questions.append(f"whether folds share patients, since the patient of {whose} is not known")
    if patients.cautious:
        shared = [(sum(across.patients.values()), across) for across in patients.cautious.folds]
        questions += [
            f"whether {plural(n, 'patient number')} both in {across.left} and in {across.right} "
            f"{'is one child' if n == 1 else 'are the same children'}"
            for n, across in shared
            if n
        ]
    if n := len(audit.near.suspects):
        questions.append(
            f"whether {plural(n, 'pair')} under different patient numbers {'is' if n == 1 else 'are'} one patient"
        )
    return questions


def separation(audit: Audit) -> Separation:
    """Return how well properties of the working images, which are all that a classifier sees, separate the classes."""
    result = audit.shortcuts
    tested = [entry for row in result.properties for entry in _tested(row, result)]
    beyond = [(words, _larger_side(one)) for words, one, sides in tested if _separates(one, sides, len(tested))]
    together = result.together_working
    if together is None or not (together.low or 0.0) > 0.5:
        together = None
    words, best = max(beyond, key=lambda entry: entry[1], default=("", None))
    measured = bool(tested) or result.together_working is not None
    return Separation(measured, together.auroc if together else None, best, words)


def strongest_shortcut(audit: Audit) -> str | None:
    """Return how well the classes can be told without the anatomy, for a reader of a classifier's figures.

    None if nothing separates the classes.
    """
    s = separation(audit)
    if s.strongest is None:
        return None
    size = audit.shortcuts.image_size
    sentence = f"The classes can be told without a look at the anatomy, on the {size} px images of train: "
    joint = s.together is not None
    measured = {row.key for row in audit.shortcuts.properties}
    colours = ", border and mean colour" if measured & {prop.key for prop in OF_COLOURS} else " and border"
    parts = [f"AUROC {short(s.together)} from sharpness, brightness, contrast{colours}"] if joint else []
    parts += [f"{'the strongest alone is' if joint else 'from'} {s.words}, {short(s.alone)}"] if s.words else []
    return sentence + "; ".join(parts) + ". A network can use this."


def _tested(row: PropertyResult, result: Shortcuts) -> list[tuple[str, AurocInterval, list[int]]]:
    """Return each AUROC of a property on what a classifier sees: in words, the AUROC, and the images on its sides."""
    n, total = result.n, sum(result.n.values())
    of_two = row.working if result.from_files else row.classes
    by_class = row.working_against_rest if result.from_files else row.one_against_rest
    entries = [(row.words, of_two, list(n.values()))] if len(n) == 2 else []
    entries += [
        (f"{row.words}, {cls} against the rest", one, [total - n[cls], n[cls]]) for cls, one in by_class.items()
    ]
    return [(words, one, sides) for words, one, sides in entries if one]


def _separates(interval: AurocInterval, images: Sequence[int], tests: int) -> bool:
    """Return whether an AUROC is further from .5 than chance takes the furthest of ``tests`` properties.

    Its 95 % interval must exclude .5, and Bonferroni's test must too. The test takes the larger of the interval's
    standard error and that of Mann and Whitney: few images can separate without a single error, by chance.
    """
    if interval.low is None or interval.high is None or interval.low <= 0.5 <= interval.high:
        return False
    first, second = images
    by_chance = ((first + second + 1) / (12 * first * second)) ** 0.5
    error = max(by_chance, (interval.high - interval.low) / (2 * scipy.stats.norm.ppf(0.975)))
    return bool(abs(interval.auroc - 0.5) > scipy.stats.norm.ppf(1 - 0.025 / tests) * error)


def _larger_side(interval: AurocInterval) -> float:
    return max(interval.auroc, 1 - interval.auroc)


def notes_beyond_copies(audit: Audit) -> list[str]:
    """Return what a reader of a classifier's figures must know of the data and only an audit can tell."""
    shortcut = strongest_shortcut(audit)
    return [
        *(f"Leak in the data: {leak}." for leak in leaks_beyond_copies(audit)),
        *([f"Shortcut in the data: {shortcut}"] if shortcut else []),
    ]


def caveats(audit: Audit) -> list[str]:
    """Return a sentence for each fact that is no proven leak but matters, the data's own notes first."""
    sentences, patients = [note for note in audit.data["notes"] if note != PHANTOM_NOTICE], audit.patients
    for across in patients.cautious.folds if patients.cautious else ():
        shared = sum(across.patients.values())
        if shared and across.right != "test":  # the data's own note has said what test shares
            sentences.append(
                f"{plural(shared, 'patient number')} both in {across.left} and in {across.right}; "
                "whether they are the same children is not known."
            )
    return [
        *sentences,
        *_near_caveats(audit.near, PHANTOM_NOTICE in audit.data["notes"]),
        *_shortcut_caveats(audit.shortcuts),
        *_source_caveats(audit.sources),
    ]


def _near_caveats(near: NearDuplicates, is_phantom: bool) -> list[str]:
    sentences, n = [], len(near.suspects)
    if near.suspects and not is_phantom:  # drawings are alike by nature
        first = near.suspects[0]
        folds = " and ".join(dict.fromkeys(first.folds))
        verb, rank = ("looks", "") if n == 1 else ("look", "the most similar ")
        sentences.append(
            f"{plural(n, 'pair')} of images under different patient numbers {verb} like one patient: "
            f"{rank}`{first.names[0]}` and `{first.names[1]}` ({folds}; correlation {short(first.correlation)})."
        )
    if near.blank:
        verb = "is" if near.blank == 1 else "are"
        sentences.append(f"{plural(near.blank, 'image')} {verb} blank and could not be compared with others.")
    if near.compared > MOST_COMPARED:
        sentences.append(
            f"Of {near.compared:,} images not every pair of perceptual hashes was compared: a few pairs may be missed"
            " that are alike, most of them less alike than copies are."
        )
    if near.candidates > near.verified:
        sentences.append(
            f"{near.candidates:,} pairs have similar hashes; only the most similar {near.verified:,} were compared."
        )
    return sentences


def _counts(folds: Array, data: Dataset) -> dict[str, ByClass]:
    return {
        fold: {cls: int(((folds == fold) & (data.labels == label)).sum()) for label, cls in enumerate(data.classes)}
        for fold in SPLITS
    }


def _identical(data: Dataset, splits: Array) -> IdenticalFiles:
    groups = [
        IdenticalGroup(
            names=[data.records[i].name for i in group],
            splits=splits[group].tolist(),
            folds=data.folds[group].tolist(),
            classes=[data.classes[data.labels[i]] for i in group],
            patients=sorted({data.records[i].patient for i in group}),
        )
        for group in equal_positions(data.digests)
    ]
    return IdenticalFiles(
        groups=len(groups),
        files=sum(len(g.names) for g in groups),
        in_split={split: sum(set(g.splits) == {split} for g in groups) for split in SPLITS},
        across_splits=sum(len(set(g.splits)) > 1 for g in groups),
        across_patients=sum(len(g.patients) > 1 for g in groups),
        label_conflicts=sum(len(set(g.classes)) > 1 for g in groups),
        folds=tuple(SharedFiles(**vars(s), groups=_crossing(s, groups)) for s in FOLD_SIDES),
        list=tuple(groups),
    )


def _crossing(names: Sides, items: Sequence[IdenticalGroup | NearPair]) -> int:
    """Return how many items have an image on both sides."""
    return sum(all(set(item.folds) & set(side) for side in FOLD_SIDES[names]) for item in items)


def _near(data: Dataset, thumbnails: Thumbnails) -> NearDuplicates:
    search = near_duplicates(thumbnails, data.digests)
    pairs = [_named(data, pair) for pair in search.pairs]
    copies = [pair for pair in pairs if pair.correlation >= COPY]
    others = [pair for pair in pairs[len(copies) :] if pair.same_patient is False]
    suspects = [pair for pair in others if pair.correlation >= SUSPECT]
    return NearDuplicates(
        compared=search.compared,
        blank=search.blank,
        candidates=search.candidates,
        verified=len(pairs),
        threshold=COPY,
        suspect_threshold=SUSPECT,
        copies=copies,
        same_patient=sum(bool(pair.same_patient) for pair in copies),
        across_classes=sum(len(set(pair.classes)) > 1 for pair in copies),
        folds=[SharedPairs(**vars(s), pairs=_crossing(s, copies)) for s in FOLD_SIDES],
        suspects=suspects,
        unrelated_most=max((pair.correlation for pair in others[len(suspects) :]), default=None),
        closest=pairs[len(copies) : len(copies) + CLOSEST],
    )


def _named(data: Dataset, pair: SimilarPair) -> NearPair:
    first, second = data.records[pair.first], data.records[pair.second]
    same = first.patient == second.patient and (first.source == second.source or not data.numbers_restart)
    return NearPair(
        names=(first.name, second.name),
        folds=(str(data.folds[pair.first]), str(data.folds[pair.second])),
        classes=(data.classes[first.label], data.classes[second.label]),
        same_patient=same if is_patient(first.patient) and is_patient(second.patient) else None,
        correlation=round(pair.correlation, 4),
        bits=pair.bits,
    )


def _shortcut_caveats(result: Shortcuts) -> list[str]:
    on_files = result.together if result.from_files else None
    joints = ((on_files, "the files"), (result.together_working, f"the {result.image_size} px images"))
    # Below .5 the fits of other folds tell nothing about a fold, so there is nothing to warn of.
    figures = [f"{short(joint.auroc)} on {where}" for joint, where in joints if joint and (joint.low or 0.0) > 0.5]
    if not figures:
        return []
    return [
        "Sharpness, border and similar properties separate the classes without a look at the anatomy: AUROC "
        f"{' and '.join(figures)} (train, cross-validated)."
    ]


def _source_caveats(sources: Sources | None) -> list[str]:
    if sources is None or sources.told is None or (sources.told.low or 0.0) <= 0.5:
        return []
    return [
        f"Where an image comes from ({sources.name}) tells its class without the image: AUROC "
        f"{short(sources.told.auroc)} (train, cross-validated). `--split-by source` tests on sources"
        " that training never sees."
    ]
