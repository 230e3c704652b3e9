"""What a study does at each size of the smallest class: the settings of its GANs, syntheses and ablation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from balancer import synthesis
from balancer.api import prepare_gan_training
from balancer.core.config import (
    SettingsT,
    absolute_paths,
    flatten,
    merge,
    parse_assignment,
    parse_assignments,
    resolve,
    without_nulls,
)
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import folder_name
from balancer.core.presets import DEMO
from balancer.core.run import PreparedRun
from balancer.core.settings import AblateConfig, DataConfig, GanTrainConfig, StudyConfig, SynthesizeConfig
from balancer.data.dataset import Dataset
from balancer.metrics.feature_choice import seconds_to_train
from balancer.quality.assess import report_seconds
from classifier.experiments import ablation
from classifier.experiments.estimates import pretraining_seconds, training_seconds
from classifier.experiments.jobs import Workers
from classifier.experiments.study import Study, configure, needed_of_every_class, open_study
from classifier.training.filtering import estimate_seconds as filter_seconds
from classifier.training.regimes import Regime, select_regimes
from classifier.training.training_set import needed_counts

ALL = "all"
OTHERS = "others"  # the folder of the classes that lack no image
FIXED = {  # settings that a study decides for its steps
    "gan_train": ("data", "seed", "target_class"),
    "synthesize": ("data", "seed", "gan_run", "n"),
    "ablate": ("data", "seed", "seeds", "regimes", "synthetic", "synthetic_count", "doses"),
}
OPTIONS = {"gan_train": "--gan", "synthesize": "--synthesis", "ablate": "--classifier"}  # that change a step's settings


@dataclass(frozen=True)
class Point:
    """One size of the minority class: the number of its training images, or None for all of them."""

    minority: int | None

    @property
    def name(self) -> str:
        """Return ``50``, or ``all``."""
        return ALL if self.minority is None else str(self.minority)

    def data(self, config: StudyConfig) -> DataConfig:
        """Return the settings of the data, with the training fold thinned to this size."""
        return config.data.model_copy(update={"minority": self.minority})

    def folder(self, run: Path) -> Path:
        """Return the folder of everything that is made at this size."""
        return run / f"size-{self.name}"

    def gan_folder(self, run: Path, k: int) -> Path:
        """Return the run directory of a GAN."""
        return self.folder(run) / f"gan-{k}"

    def synthesis_folder(self, run: Path, k: int) -> Path:
        """Return the run directory of the images of a GAN."""
        return self.folder(run) / f"synthesis-{k}"

    def ablation_folder(self, run: Path) -> Path:
        """Return the run directory of the ablation."""
        return self.folder(run) / "ablation"


@dataclass(frozen=True)
class OtherClass:
    """A class that lacks no image, of which some regimes need synthetic images all the same.

    Its images are the same at every size, unless a ratio takes some of them out. So its GANs serve all sizes.
    """

    name: str
    place: str  # its folder, relative to the run: others/PNEUMONIA, or size-50/others/PNEUMONIA with a ratio
    data: DataConfig
    n: int  # synthetic images
    latents: int  # added to the seed of the images, another number for each class

    @property
    def at(self) -> str:
        """Return `` at size 50`` where a ratio takes some of the images out, so that each size has GANs of its own."""
        return "" if self.data.ratio is None else f" at size {Point(self.data.minority).name}"

    def gan_folder(self, run: Path, k: int) -> Path:
        """Return the run directory of a GAN."""
        return run / self.place / f"gan-{k}"

    def synthesis_folder(self, run: Path, k: int) -> Path:
        """Return the run directory of the images of a GAN."""
        return run / self.place / f"synthesis-{k}"


def points_of(config: StudyConfig) -> list[Point]:
    """Return the sizes of a study, the smallest first; all images come last.

    Raises:
        UsageError: a size is named twice, or none is named.
    """
    sizes = [None if size == ALL else int(size) for size in config.sizes]
    if not sizes or len(set(sizes)) < len(sizes):
        raise UsageError(f"sizes are {list(config.sizes)}; expected each size once, such as 50,100,200,all")
    return [Point(n) for n in sorted(n for n in sizes if n is not None)] + [Point(None)] * (None in sizes)


def with_absolute_paths(explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user set, with absolute paths in the settings of steps, so that ``--resume`` works from anywhere.

    Raises:
        UsageError: a text is no assignment.
    """
    changed = dict(explicit)
    for option in OPTIONS.values():
        name = option.removeprefix("--")
        texts = [given] if isinstance(given := explicit.get(name), str) else given
        if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
            changed[name] = [_with_absolute_path(text, option) for text in texts]
    return changed


def _with_absolute_path(text: str, option: str) -> str:
    values = parse_assignment(text, option)
    absolute = absolute_paths(values)
    key = text.partition("=")[0].strip()
    return text if absolute == values else f"{key}={json.dumps(absolute[key], ensure_ascii=False)}"


def _changes(config: StudyConfig, command: str) -> dict[str, Any]:
    """Return the settings of a step that the study's settings name, over the sizes of a demonstration if it is quick.

    Raises:
        UsageError: a text is no assignment, or names a setting that the study decides.
    """
    of_step = {"gan_train": config.gan, "synthesize": config.synthesis, "ablate": config.classifier}[command]
    values = without_nulls(merge(*parse_assignments(of_step, OPTIONS[command])))
    for key in flatten(values):
        if key.split(".")[0] in FIXED[command]:
            raise UsageError(f"{key} is given for {command.replace('_', '-')}, and the study decides it; leave it out")
    return merge(DEMO[command] if config.quick else {}, values)


@contextlib.contextmanager
def _given_with(option: str) -> Iterator[None]:
    """Let a message on a setting begin with the option that gave it: every step has settings such as ``steps``."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error


def _settings(model: type[SettingsT], config: StudyConfig, command: str, fixed: Mapping[str, Any]) -> SettingsT:
    """Return the settings of a step: what the study's settings name, under what the study decides."""
    values = merge(_changes(config, command), fixed)
    with _given_with(OPTIONS[command]):
        return resolve(model, values)


def gan_settings(config: StudyConfig, point: Point, k: int, several: bool) -> GanTrainConfig:
    """Return the settings of the GAN with the k-th seed.

    Args:
        config: of the study.
        point: the size.
        k: number of the seed.
        several: whether there are more than two classes: then each that lacks images gets a GAN, in one run.
    """
    fixed: dict[str, Any] = {"data": point.data(config).model_dump(mode="json"), "seed": config.seed + k}
    fixed |= {"target_class": "all"} if several else {}
    return _settings(GanTrainConfig, config, "gan_train", fixed)


def other_gan_settings(config: StudyConfig, other: OtherClass, k: int) -> GanTrainConfig:
    """Return the settings of the GAN of a class that lacks no image, with the k-th seed."""
    fixed = {"data": other.data.model_dump(mode="json"), "seed": config.seed + k, "target_class": other.name}
    return _settings(GanTrainConfig, config, "gan_train", fixed)


def synthesis_settings(config: StudyConfig, gan: Path, n: int | None, latents: int = 0) -> SynthesizeConfig:
    """Return the settings of the images of a GAN: ``n`` of each class, or None for as many as each class lacks.

    ``latents`` is added to the seed. GANs of two classes with one seed start from the same weights, and image i of
    either shall not come from the same latent vector too.
    """
    fixed = {"gan_run": str(gan.resolve()), "seed": config.seed + latents} | ({} if n is None else {"n": n})
    return synthesis.configure(merge(_changes(config, "synthesize"), fixed))


def ablation_settings(config: StudyConfig, point: Point, others: Sequence[OtherClass], run: Path) -> AblateConfig:
    """Return the settings of the ablation with the images of every GAN."""
    makers: list[Point | OtherClass] = [point, *others]
    sets = [str(maker.synthesis_folder(run.resolve(), k)) for k in range(config.gans) for maker in makers]
    return configure(AblateConfig, merge(_ablation(config, point), {"synthetic": sets}))


def reference_settings(config: StudyConfig, point: Point) -> AblateConfig:
    """Return the settings of the regimes without synthetic images, which can be checked and timed before any GAN."""
    without = merge(_ablation(config, point), {"regimes": ["baseline", "augment"], "seeds": 1})
    with _given_with(OPTIONS["ablate"]):
        return resolve(AblateConfig, without)


def _ablation(config: StudyConfig, point: Point) -> Mapping[str, Any]:
    fixed = {
        "data": point.data(config).model_dump(mode="json"),
        "seed": config.seed,
        "seeds": config.seeds,
        "regimes": list(config.regimes),
    }
    return merge(_changes(config, "ablate"), fixed)


@dataclass(frozen=True)
class Reference:
    """What can be checked and timed at one size before there is a GAN."""

    point: Point
    gan: PreparedRun[Any]
    ablation: Study  # of the regimes without synthetic images
    others: list[OtherClass]
    n: int | None = None  # synthetic images of each class that lacks some; None: as many as each lacks


def estimate(config: StudyConfig, references: Sequence[Reference], workers: Workers, dry: bool) -> float:
    """Return the seconds of all steps; a trial takes as many steps as one without synthetic images."""
    regimes = select_regimes(config.regimes)
    trials = sum(config.seeds * (config.gans if r.synthetic else 1) for r in regimes)
    filtered, gan = [r for r in regimes if r.filtered], _settings(GanTrainConfig, config, "gan_train", {})
    seconds = 0.0
    for reference in references:
        data = reference.ablation.data
        numbers = [reference.n or n for n in data.deficits if n]
        study, device = reference.ablation, workers.local_device
        a_trial = training_seconds(study, device) / len(study.trials)
        seconds += config.gans * (reference.gan.estimate_seconds() + images_seconds(config, numbers))
        # every GAN's estimate holds the training of a feature network, which the first one waits for
        seconds -= (config.gans - 1) * seconds_to_train(gan.features, data, workers.local_device)
        seconds += (trials * a_trial + config.seeds * pretraining_seconds(study, device)) / workers.count()
        if filtered:
            seconds += config.gans * filter_seconds(data, needed_counts(filtered, data.counts("train")))
    for other in {other.place: other for reference in references for other in reference.others}.values():
        prepared = prepare_gan_training(other_gan_settings(config, other, 0), workers.device, workers.threads, dry)
        seconds += config.gans * (prepared.estimate_seconds() + images_seconds(config, [other.n]))
    return seconds


def images_seconds(config: StudyConfig, numbers: Iterable[int]) -> float:
    """Return the time of a synthesis with so many images of each class, and of the report on each class."""
    settings = _settings(SynthesizeConfig, config, "synthesize", {})
    return sum(report_seconds(settings, config.data.image_size, n) for n in numbers)


def open_references(config: StudyConfig, workers: Workers, dry: bool) -> list[Reference]:
    """Open the data at every size, and check the settings of the steps, so that none is refused after hours.

    Raises:
        UsageError: sizes, regimes or settings that cannot be.
        BalancerError: the data cannot be used, no class lacks images at some size, or the test set is too small.
    """
    _settings(SynthesizeConfig, config, "synthesize", {})  # refused here, and not after the first GAN
    regimes = select_regimes(config.regimes)
    if not any(regime.synthetic for regime in regimes):
        raise UsageError(f"regimes are {list(config.regimes)}, none with synthetic images; add gan or combined")
    if len(regimes) == 1:
        raise UsageError(
            f"regimes are {list(config.regimes)}, and a study compares several; add {regimes[0].reference}"
        )
    references: list[Reference] = []
    for point in points_of(config):
        study = open_study(reference_settings(config, point), decode=not dry)
        ablation.check(study)
        workers.check_steps(study.config)
        _refuse_same_images(references, point, study)
        if not study.data.deficit:
            raise BalancerError(
                f"no class of {study.data.source} lacks images at size {point.name}"
                f" ({', '.join(map(str, study.data.counts('train')))}): there is nothing to balance"
            )
        gan = gan_settings(config, point, 0, several=len(study.data.classes) > 2)
        prepared = prepare_gan_training(gan, workers.device, workers.threads, dry)
        references.append(Reference(point, prepared, study, *_wanted(config, point, study.data, regimes)))
    return _shared(references)


def _refuse_same_images(references: Sequence[Reference], point: Point, study: Study) -> None:
    """Refuse a size that keeps the images of another one: a second look at them is no second finding.

    Raises:
        UsageError: it does.
    """
    same = next((r for r in references if r.ablation.data.split_hash == study.data.split_hash), None)
    if same is not None:
        kept = min(study.data.counts("train"))
        raise UsageError(
            f"sizes {same.point.name} and {point.name} both keep the same {kept:,} images of the smallest class, by"
            " whole patients; leave one of them out"
        )


def _wanted(
    config: StudyConfig, point: Point, data: Dataset, regimes: Sequence[Regime]
) -> tuple[list[OtherClass], int | None]:
    """Return the classes that lack no image and need synthetic ones, and how many the others need beyond their lack."""
    needed_of_every_class(reference_settings(config, point), data, regimes)  # refuses settings that do not fit
    needed = {label: n for label, n in enumerate(needed_counts(regimes, data.counts("train"))) if n}
    lacking = {label: n for label, n in enumerate(data.deficits) if n}
    beyond = [n for label, n in needed.items() if n > lacking.get(label, n)]
    place = OTHERS if config.data.ratio is None else f"size-{point.name}/{OTHERS}"
    of_data = config.data if config.data.ratio is None else point.data(config)
    others = [
        OtherClass(name, f"{place}/{folder_name(name)}", of_data, n, latents=1 + label)
        for label, n in needed.items()
        if label not in lacking and (name := data.classes[label])
    ]
    return others, max(beyond, default=None)


def _shared(references: list[Reference]) -> list[Reference]:
    """Return the references with other classes of one place alike: their images serve the size that needs most."""
    most: dict[str, int] = {}
    for other in (other for reference in references for other in reference.others):
        most[other.place] = max(other.n, most.get(other.place, 0))
    return [replace(r, others=[replace(other, n=most[other.place]) for other in r.others]) for r in references]
