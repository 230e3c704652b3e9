"""A study: the data, the synthetic sets and the regimes of one command, and what its trials must have in common."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from balancer.core.config import config_hash, resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.pixels import GREY, WORDS
from balancer.core.run_names import SYNTHESES
from balancer.core.saved_runs import data_settings, newest_of, read_environment
from balancer.core.settings import AblateConfig, ClassifierConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.records import sampling_unit
from balancer.reporting.numbers import listed
from classifier.analysis.results import TrialResult
from classifier.experiments.plan import Trial, plan_trials, regimes_of
from classifier.models.heads import number_of_outputs
from classifier.models.weights import weights_hash
from classifier.report.samples import with_grade
from classifier.training import metering, pretraining, trainer
from classifier.training.filtering import Selection, folds_of
from classifier.training.metering import Probe
from classifier.training.regimes import Regime
from classifier.training.synthetic import SyntheticSet, lacking, load_sets, split_of
from classifier.training.training_set import TrainingSet, added_counts, training_set

log = logging.getLogger("balancer")
ClassifierT = TypeVar("ClassifierT", bound=ClassifierConfig)


@dataclass(frozen=True)
class Study:
    """What the trials of one command share."""

    config: ClassifierConfig
    data: Dataset
    synthetic: list[SyntheticSet]  # one per GAN seed
    regimes: list[Regime]
    selections: tuple[Selection, ...] = ()  # what a filter chose of each set; empty until it has

    @property
    def trials(self) -> list[Trial]:
        """Return the trials in the order in which they run."""
        return plan_trials(self.config, self.regimes, len(self.synthetic))

    @property
    def synthetic_sources(self) -> list[str]:
        """Return the folders and the digest of each synthetic set, for a report in Markdown."""
        return [f"{' and '.join(f'`{path}`' for path in s.paths)} ({s.digest})" for s in self.synthetic]

    @property
    def graded_sources(self) -> list[str]:
        """Return the same, each with the grade that its report gives the images."""
        return [with_grade(words, *s.paths) for words, s in zip(self.synthetic_sources, self.synthetic, strict=True)]

    @property
    def duplicate_counts(self) -> tuple[int, ...]:
        """Return how many real images of each class the control regimes duplicate.

        They are as many as the synthetic images that the other regimes add.
        """
        return self.counts(self.synthetic[0] if self.synthetic else None)

    def counts(self, images: SyntheticSet | None, dose: float | None = None) -> tuple[int, ...]:
        """Return how many images of each class of a set are used: a dose, in deficits, or what the settings say.

        Without a set, the classes are those that lack images; of two classes that are even, it is the minority class.
        """
        deficits, count, lack = self.data.deficits, self.config.synthetic_count, lacking(self.data)
        if images is not None and dose is None and count == "all":
            held = np.bincount(images.labels, minlength=len(deficits)).tolist()
            return tuple(n if label in lack else 0 for label, n in enumerate(held))
        used = lack if images is None else images.held
        number = [n if not isinstance(count, int) else count for n in deficits]
        if dose is not None:
            number = [round(dose * n) for n in deficits]
        return tuple(n if label in used and label in lack else 0 for label, n in enumerate(number))

    @property
    def has_meter(self) -> bool:
        """Return whether the shortcut meter is asked for: in an ablation with synthetic images, unless it is off."""
        return isinstance(self.config, AblateConfig) and self.config.meter and bool(self.synthetic)

    @cached_property
    def probes(self) -> list[Probe]:
        """Return what the shortcut meter shows each classifier, made once; nothing where it cannot be measured."""
        return metering.probes(self.data, self.synthetic, self.config.seed) if self.has_meter else []

    @property
    def meter_notes(self) -> list[str]:
        """Return the note that a report needs if the meter could not be measured."""
        if not self.has_meter or self.probes:
            return []
        unit = sampling_unit(self.data.groups)
        return [
            f"The shortcut meter was left out: it takes {metering.FEWEST_PATIENTS} validation {unit}s of other classes"
            " than that of the synthetic images."
        ]

    def measured_sets(self, trial: Trial) -> list[int]:
        """Return the synthetic sets that the meter measures a trial with: its own, or each if the trial has none."""
        if trial.regime.group == "checks" or not self.has_meter:
            return []
        return [i for i in range(len(self.synthetic)) if trial.synthetic_set in (None, i)]

    def synthetic_images(self, trial: Trial, rehearsal: bool = False) -> SyntheticSet | None:
        """Return the synthetic images that a trial trains on; ``rehearsal`` and errors as in :meth:`training_set`."""
        if trial.synthetic_set is None:
            return None
        synthetic_set = self.synthetic[trial.synthetic_set]
        if trial.regime.filtered and not rehearsal:
            return self.filtered(trial.synthetic_set)
        if trial.regime.others in ("replaced", "added"):
            return synthetic_set.first(added_counts(trial.regime, self.data.counts("train")))
        return synthetic_set.first(self.counts(synthetic_set, trial.dose))

    def training_set(self, trial: Trial, rehearsal: bool = False) -> TrainingSet:
        """Return the images that the trial trains on; ``rehearsal``: as many, whatever a filter will choose.

        Raises:
            BalancerError: as :func:`~classifier.training.training_set.training_set`, or if no filter has chosen yet.
        """
        regime, duplicates = trial.regime, self.duplicate_counts
        if regime.others in ("replaced", "added"):
            duplicates = added_counts(regime, self.data.counts("train"))
        images = self.synthetic_images(trial, rehearsal)
        return training_set(self.data, regime, images, trial.seed + regime.seed_offset, duplicates)

    def filtered(self, number: int) -> SyntheticSet:
        """Return the images of a set, by its position, that the filter keeps.

        Raises:
            BalancerError: no filter has chosen.
        """
        if not self.selections:
            raise BalancerError("the filter of gan_filtered has chosen no images of this study yet")
        return self.selections[number].of(self.synthetic[number], self.data.classes)


def recipe_hash(config: ClassifierConfig) -> str:
    """Return the first 8 hex digits of the hash of how a classifier is trained and selected.

    The hash leaves out the data, the seeds and what an ablation compares.
    """
    compared = {"data", "seed", "synthetic", "synthetic_count", "regimes", "regime", "seeds", "doses", "folds", "meter"}
    return config_hash(config, exclude=compared)


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return the first 16 hex digits of the hash of both packages' source files, committed or not."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(p for package in ("balancer", "classifier") for p in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_notes(hashes: Iterable[str | None]) -> list[str]:
    """Return the note that a table needs if the code changed between its trials."""
    several = len(set(hashes)) > 1
    return ["The trials were made by more than one version of the code (code_hash)."] if several else []


class Computed(Protocol):
    """What is known of how a trial was computed."""

    @property
    def code_hash(self) -> str | None:
        """Return the hash of the code."""
        ...

    @property
    def threads(self) -> int | None:
        """Return the number of threads."""
        ...


def computing_notes(trials: Iterable[Computed]) -> list[str]:
    """Return the notes that a table needs if versions of the code, or numbers of threads, differ between its trials."""
    trials = list(trials)
    several = sorted({trial.threads for trial in trials if trial.threads is not None})
    numbers = " and ".join(map(str, several))
    text = f"The trials were computed with {numbers} threads (threads): their figures differ in the last digits."
    return [*code_notes(trial.code_hash for trial in trials), *([text] if len(several) > 1 else [])]


def provenance(study: Study) -> dict[str, str]:
    """Return what all trials of a table must share: split, images (test too), settings, weights, synthetic sets."""
    sets = "".join(s.digest for s in study.synthetic)
    return {
        "split_hash": study.data.split_hash,
        "data_fingerprint": study.data.fingerprint,
        "config_hash": config_hash(study.config, exclude={"meter"}),  # the meter changes no trial
        "weights_hash": weights_hash(study.config.weights),
        "synthetic_sets_hash": hashlib.sha256(sets.encode()).hexdigest()[:16],
    }


def check_channels(run: Path, data: Dataset) -> None:
    """Refuse to continue a run whose earlier trials saw images in other channels; a run that names none saw grey.

    Raises:
        BalancerError: the channels differ.
    """
    before = read_environment(run).data.get("channels", GREY)
    if before != data.channels:
        raise BalancerError(
            f"{run} began with images in {WORDS.get(before, before)}, {data.source} is now read in"
            f" {WORDS[data.channels]}; start a new run, or give --channels {before} to one"
        )


def check_provenance(trials: Sequence[TrialResult], study: Study, where: str) -> None:
    """Refuse to continue the run that holds the trials with another study; ``where`` is their file, for the message.

    Raises:
        BalancerError: if data, split, settings, weights or synthetic sets differ.
    """
    for name, value in provenance(study).items():
        if others := {str(getattr(trial, name)) for trial in trials} - {value}:
            raise BalancerError(
                f"{where} holds trials of {name} {'/'.join(sorted(others))}, {study.data.source} and the settings now "
                f"give {value}; bring back what was changed, or start a new run"
            )


def refuse_several_classes(data: Dataset, command: str) -> None:
    """Refuse data of more than two classes, for a command that compares two.

    Raises:
        UsageError: naming the classes.
    """
    if len(data.classes) > 2:
        remedy = f"give --positive {data.classes[data.minority_class]} for one class against the others"
        remedy = "leave out --task multiclass" if data.reader == "chest" else remedy
        raise UsageError(
            f"{data.source} has the classes {', '.join(data.classes)}; {command} compares two classes: {remedy}, or"
            " take `classifier ablate`, which compares any number"
        )


def check_classes(config: ClassifierConfig, data: Dataset) -> None:
    """Refuse settings that do not fit the number of classes.

    Raises:
        UsageError: the settings are for two classes, and the data have more.
    """
    number_of_outputs(config, len(data.classes))
    if config.class_weights == "positive" and len(data.classes) > 2:
        raise UsageError(
            f"class_weights is 'positive', which is for two classes; {data.source} has {len(data.classes)}: give"
            " balanced or complement"
        )


def configure(model: type[ClassifierT], explicit: Mapping[str, Any]) -> ClassifierT:
    """Return the settings of a new training or ablation.

    A regime with synthetic images takes over the data settings of the named synthesis, or else of the newest one. So
    both commands work on the same split.

    Raises:
        BalancerError: if no finished synthesis exists, or if it resized the images in another way.
        UsageError: if the settings do not fit the command.
    """
    config = resolve(model, explicit)
    if not any(r.synthetic for r in regimes_of(config)):
        return config
    folders = [Path(path) for path in config.synthetic or ()]
    if not folders:
        newest = newest_of(*SYNTHESES)
        if newest is None:
            raise BalancerError(
                "no finished synthesis under runs/synthesize or runs/import; run `balancer synthesize` first, or give"
                " --synthetic DIR"
            )
        log.info(
            "taking the newest finished %s: %s", "import" if newest.parent.name == "import" else "synthesis", newest
        )
        folders = [newest]
    data_settings = {path: _data_settings(path) for path in folders}
    inherited = {"data": data_settings[folders[0]], "synthetic": [str(path.resolve()) for path in folders]}
    config = resolve(model, explicit, inherited)
    for path, settings in data_settings.items():
        # Images that were resampled twice would give themselves away.
        for key in sorted({"image_size", "resize"} & settings.keys()):
            if settings[key] != (now := getattr(config.data, key)):
                raise BalancerError(
                    f"{path} was made with {key} {settings[key]}, the settings here say {now}; "
                    "run `balancer synthesize` with this value, or leave the setting out"
                )
    return config


def _data_settings(path: Path) -> dict[str, Any]:
    """Return the data settings of a synthesis or an import; other programs bring a manifest alone."""
    return data_settings(path) if (path / "config.yaml").exists() else {}


def open_study(config: ClassifierConfig, decode: bool = True) -> Study:
    """Read the data and the synthetic images, and check that they fit, before anything is written.

    ``decode`` is False for a dry run, as for :func:`~balancer.data.dataset.load_dataset`.

    Raises:
        UsageError: if settings do not fit the number of classes.
        BalancerError: if a fold is empty, or a synthetic set is of another split or too small.
    """
    regimes = regimes_of(config)
    trainer.check(config)
    made_under = None if decode else split_of(config.synthetic or ())
    data = load_dataset(config.data, require=("train", "val", "test"), decode=decode, expected_split=made_under)
    check_classes(config, data)
    synthetic = _synthetic_sets(config, data, regimes)
    stated = (note for s in synthetic for note in (s.coding, s.caveat) if note)
    notes = [*dict.fromkeys(stated), *_unfilled(synthetic, data)]
    study = Study(config, replace(data, notes=[*data.notes, *notes]), synthetic, regimes)
    n_val = len(data.indices("val"))
    if n_val < 100:
        log.warning("validation holds %d images: thresholds and selection on so few are nearly arbitrary", n_val)
    for trial in study.trials:
        if trial.seed == config.seed:
            # Refuses a count below 1, and a batch larger than the fold.
            trainer.stages(config, study.training_set(trial, rehearsal=True))
    pretraining.check(config, data)
    return study


def _unfilled(sets: Sequence[SyntheticSet], data: Dataset) -> list[str]:
    """Return the note that a report needs where synthetic sets leave a class short; log it as a warning."""
    held = {label for s in sets for label in s.held}
    short = [(n, data.classes[k]) for k, n in enumerate(data.deficits) if n and k not in held]
    if not sets or not short:
        return []
    lacking = listed([f"{n:,} {name} images" for n, name in short])
    note = f"No synthetic set fills up the {lacking} that the training fold lacks: no regime balances all classes."
    log.warning("%s", note)
    return [note]


def _synthetic_sets(config: ClassifierConfig, data: Dataset, regimes: Sequence[Regime]) -> list[SyntheticSet]:
    sets: list[SyntheticSet] = []
    needed = needed_of_every_class(config, data, regimes)
    if config.synthetic and any(r.synthetic or r.duplicate for r in regimes):
        dose = max(config.doses, default=0.0) if isinstance(config, AblateConfig) else 0.0
        filtered = any(r.filtered for r in regimes)
        sets = load_sets(config.synthetic, data, config.data, config.synthetic_count, dose, needed, filtered)
        for s in sets if filtered else ():
            for label in set(s.held) & set(lacking(data)):
                folds_of(data, label, int((s.labels == label).sum()))  # refuses too few patients
    elif config.synthetic:
        unread = listed([str(path) for path in config.synthetic])
        log.warning("no regime here uses synthetic images: %s is not read", unread)
    if not sets and (without := [r.name for r in regimes if r.synthetic]):
        raise BalancerError(
            f"regime {without[0]} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
        )
    for label, n in needed.items():
        if any(label not in s.held for s in sets):
            name = data.classes[label]
            raise BalancerError(
                f"regimes with synthetic images of every class need {n} {name} images, and no set holds any: run"
                f" `balancer gan-train --class {name}` and `balancer synthesize --n {n}`, and give both sets with"
                " --synthetic"
            )
    if len(sets) > 1 and isinstance(config, TrainConfig):
        raise UsageError(
            f"synthetic names {len(sets)} sets; `classifier train` takes one, `classifier ablate` takes several; "
            "folders of different classes make one set"
        )
    return sets


def needed_of_every_class(config: ClassifierConfig, data: Dataset, regimes: Sequence[Regime]) -> dict[int, int]:
    """Return how many synthetic images of each class are needed by regimes that add some to every class.

    Raises:
        UsageError: the settings give another number.
    """
    counts = [added_counts(r, data.counts("train")) for r in regimes if r.synthetic and r.others != "whole"]
    if config.synthetic_count == "all" and (filtered := [r.name for r in regimes if r.filtered]):
        raise UsageError(
            f"synthetic_count is 'all', and regime {filtered[0]} leaves images out; give the number to keep, or leave"
            " one of them out"
        )
    if counts and config.synthetic_count != "deficit":
        named = next(r.name for r in regimes if r.synthetic and r.others != "whole")
        raise UsageError(
            f"synthetic_count is {config.synthetic_count!r}, and regime {named} takes as many images as its share"
            " needs; leave one of them out"
        )
    return {label: n for label, n in enumerate(map(max, zip(*counts, strict=True))) if n}
