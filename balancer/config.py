"""Settings: the models below are the defaults, and the only place where a default is written.

A command's settings are put together from layers, later ones winning: defaults, the demonstration sizes (only
on the phantom set), what an earlier run hands on, the named preset, the config file, the environment, the flags.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from balancer.errors import UsageError, nearest
from balancer.presets import DEMO, PRESETS

PHANTOM = "phantom"  # the data path that means "the built-in drawings"
DEFAULT_FOLDER = Path("data/chest_xray")


def _listed(value: Any) -> Any:
    """``a,b`` as a list, for flags and for hand-written YAML."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    """``0,.5`` as a list; YAML reads a single number as one."""
    return [value] if isinstance(value, int | float) else _listed(value)


def _folders(value: Any) -> Any:
    """One folder as a list; a comma may be part of its name."""
    return [value] if isinstance(value, str) else value


def _off(value: Any) -> Any:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Folders = Annotated[tuple[str, ...], BeforeValidator(_folders)]
Doses = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_numbers)]


class Section(BaseModel):
    """Base of every settings model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images, how they are brought to one size, and how validation is carved out."""

    path: str | None = None  # a folder, a MedMNIST .npz, or "phantom"; None: data/chest_xray, else the phantom set
    image_size: int = Field(64, ge=16, le=1024)
    resize: Literal["squash", "pad", "crop"] = "squash"
    val_fraction: float | None = Field(None, ge=0, lt=1)  # None: 0.15 of a folder, the file's own split of an npz
    split_seed: int = 0
    max_bad: float = Field(0.01, ge=0, le=1)


class GanTrainConfig(Section):
    """`balancer gan-train`. A preset sets several of these at once; what is given beside it wins."""

    data: DataConfig = DataConfig()
    seed: int = 0
    preset: str = "dcgan_diffaug"
    target_class: str | None = None  # None: the minority class of the training fold
    # networks
    architecture: str = "dcgan"
    z_dim: int = Field(100, ge=1)
    z_distribution: Literal["normal", "uniform"] = "normal"
    generator_width: int = Field(32, ge=1)
    discriminator_width: int = Field(32, ge=1)
    discriminator_norm: Literal["batch", "spectral", "none"] = "batch"
    minibatch_stddev: bool = False
    # objective
    loss: str = "non_saturating"
    r1_weight: float = Field(0.0, ge=0)  # gamma: the penalty is gamma / 2 times the squared gradient
    r2_weight: float = Field(0.0, ge=0)
    gradient_penalty_weight: float = Field(0.0, ge=0)  # lambda of WGAN-GP
    penalty_every: int = Field(1, ge=1)  # lazy: every so many D steps, so many times as strong
    lecam_weight: float = Field(0.0, ge=0)
    # augmentation of what D sees
    diffaugment: Names = ("translation",)
    ada_target: float | None = Field(None, gt=-1, lt=1)  # None: every image; else the probability follows r_t
    ada_images: int = Field(100_000, ge=1)  # images that it takes the probability to go from 0 to 1
    # optimisation
    steps: int = Field(16_000, ge=1)
    batch_size: int = Field(32, ge=2)
    n_dis: int = Field(1, ge=1)  # D steps per G step
    optimizer: Literal["adam", "rmsprop"] = "adam"
    lr_generator: float = Field(2e-4, gt=0)
    lr_discriminator: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)  # 0: no averaging
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware multiplies in it
    # watching
    log_every: int = Field(50, ge=1)
    snapshot_every: int = Field(1000, ge=1)  # grid, quality and checkpoint
    snapshot_images: int = Field(1000, ge=2)
    selection: Literal["kid", "frechet", "last"] = "kid"  # which snapshot's generator `synthesize` takes
    min_diversity: float = Field(0.02, ge=0, lt=1)  # training stops below this share of the real images' variance
    tensorboard: bool = False


class QualityConfig(Section):
    """What a report on synthetic images measures, whichever command writes it."""

    seed: int = 0
    inception: Annotated[str, BeforeValidator(_off)] = "auto"  # auto (cached or downloaded), off, or a weights file
    kid_subsets: int = Field(100, ge=1)
    kid_subset_size: int = Field(100, ge=2)
    two_sample: bool = True  # train classifiers to tell synthetic from real: the slowest part of a report


class SynthesizeConfig(QualityConfig):
    """`balancer synthesize`."""

    data: DataConfig = DataConfig()
    n: int | None = Field(None, ge=1)  # None: the deficit of the training fold
    gan_run: str | None = None  # None: the newest finished run


class EvaluateConfig(QualityConfig):
    """`balancer evaluate`: two or three folders of images, so no data section."""

    real: str | None = None  # a folder of real images; must be given
    fake: str | None = None  # a folder of synthetic images; must be given
    training: str | None = None  # what the generator learnt from; None: not known, and ``real`` stands in
    image_size: int | None = Field(None, ge=16, le=1024)  # None: the smallest side found, at most 256
    resize: Literal["squash", "pad", "crop"] = "squash"
    max_bad: float = Field(0.01, ge=0, le=1)


class AuditConfig(Section):
    """`balancer audit`."""

    data: DataConfig = DataConfig()
    seed: int = 0  # of the intervals' resampling and of cross-validation
    strict: bool = False  # a leak is an error, once the report is written


class ClassifierConfig(Section):
    """How a classifier is trained, whatever the regime."""

    data: DataConfig = DataConfig()
    seed: int = 0
    synthetic: Folders | None = None  # synthesis runs, one per GAN seed; None: the newest finished one
    synthetic_count: Annotated[int, Field(ge=1)] | Literal["deficit", "all"] = "deficit"
    model: str = "small_cnn"
    weights: str = "none"  # torchvision backbones: imagenet, none, or a state-dict file
    freeze: bool = False  # train the head only
    # None: imagenet with ImageNet weights, else per_image. That per-image standardisation helps was first noticed on the
    # official test set of the chest X-rays, with one seed; inside train it is no better and no worse than unit (docs/results.md).
    normalisation: Literal["per_image", "unit", "imagenet"] | None = None
    augmentation: str = "mild"
    steps: int = Field(1400, ge=1)
    exposure: Literal["steps", "real"] = "steps"  # equal in all regimes: optimiser steps, or passes over real images
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = Field(0.99, ge=0, lt=1)  # of the averaged weights that are looked at and kept; 0: no averaging
    bn_statistics: Literal["running", "clean"] = "clean"  # BatchNorm's, of augmented batches, or re-estimated without
    focal_gamma: float = Field(2.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)  # a label is learnt as so far from 0 and 1
    evaluations: int = Field(5, ge=1)  # how often validation is looked at, evenly spread over the steps
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    selection: Literal["best_val_nll", "last"] = "last"
    threshold: str = "balanced_accuracy"

    @property
    def input_normalisation(self) -> str:
        """The normalisation in force."""
        return self.normalisation or ("imagenet" if self.weights == "imagenet" else "per_image")


class TrainConfig(ClassifierConfig):
    """`classifier train`: one classifier under one regime."""

    regime: str = "baseline"


class AblateConfig(ClassifierConfig):
    """`classifier ablate`: every regime times every trial seed."""

    regimes: Names = ("all",)
    seeds: int = Field(3, ge=1)
    doses: Doses = ()  # of synthetic images, in deficits, tried beside the main study


# What a recipe is not: which data and class, chance, length, number format, and what is watched and kept.
NOT_RECIPE = {
    "data",
    "seed",
    "preset",
    "target_class",
    "steps",
    "precision",
    "log_every",
    "snapshot_every",
    "snapshot_images",
    "selection",
    "min_diversity",
    "tensorboard",
}
RECIPE = tuple(name for name in GanTrainConfig.model_fields if name not in NOT_RECIPE)

COMMANDS: dict[str, type[Section]] = {
    "gan_train": GanTrainConfig,
    "synthesize": SynthesizeConfig,
    "evaluate": EvaluateConfig,
    "audit": AuditConfig,
    "train": TrainConfig,
    "ablate": AblateConfig,
}

log = logging.getLogger("balancer")
SectionT = TypeVar("SectionT", bound=Section)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries laid over one another, later ones winning key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def read_config_file(path: Path, command: str) -> dict[str, Any]:
    """The section of a YAML file that belongs to a command, over the file's shared ``data`` section.

    A file holds one mapping per command (``gan_train``, ``synthesize``, ``evaluate``, ``audit``, ``train``, ``ablate``) and, for
    all that read a data set, ``data``. YAML is read with the safe loader: a config file is never executed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read: {error.strerror}; give an existing YAML file") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-45
        raise UsageError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    known = {*COMMANDS, "data"}
    if not isinstance(content, dict):
        raise UsageError(f"config file {path} holds a {type(content).__name__}; expected sections {sorted(known)}")
    for section, body in content.items():
        if section not in known:
            raise UsageError(f"config file {path} has an unknown section {section!r}; {nearest(str(section), known)}")
        if body is not None and not isinstance(body, dict):
            raise UsageError(f"config file {path}: section {section!r} is a {type(body).__name__}; expected a mapping")
        try:
            check_keys(DataConfig if section == "data" else COMMANDS[section], body or {})
        except UsageError as error:
            raise UsageError(f"config file {path}, section {section}: {error}") from error
    shared = {"data": content["data"]} if content.get("data") and reads_data(command) else {}
    return without_nulls(merge(shared, content.get(command) or {}))


def reads_data(command: str) -> bool:
    """Whether a command works on a data set; ``evaluate`` is given folders of images instead."""
    return "data" in COMMANDS[command].model_fields


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: in a config file, null says "as if not given", at every level."""
    kept = {key: without_nulls(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    return {key: v for key, v in kept.items() if v is not None}


def parse_assignment(text: str) -> dict[str, Any]:
    """``data.image_size=128`` as ``{"data": {"image_size": 128}}``; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set got {text!r}; expected key=value, as in --set data.image_size=128")
    try:
        nested: Any = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {key}: {value!r} is not a YAML value") from error
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def resolve(command: str, explicit: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> Section:
    """The settings of a command from what the user said and what an earlier run hands on.

    Args:
        command: a key of :data:`COMMANDS`.
        explicit: config file, environment and flags, already merged in that order.
        inherited: settings taken over from the run this one builds on, such as its ``data`` section.

    Raises:
        UsageError: an unknown key or preset, or a value out of range.
    """
    said = merge(inherited or {}, explicit)
    if not reads_data(command):
        return validate(COMMANDS[command], said)
    data = said.get("data") or {}
    if not isinstance(data, Mapping):
        raise UsageError(f"setting 'data' is {data!r}; expected a mapping, as in --set data.path=FOLDER")
    path = data_path(data.get("path"))
    preset = said.get("preset", GanTrainConfig().preset)
    if command == "gan_train" and preset not in list(PRESETS):  # a list, since what was given may be unhashable
        raise UsageError(f"preset is {preset!r}; {nearest(str(preset), PRESETS)}")
    demo = DEMO[command] if path == PHANTOM else {}
    preset_values = PRESETS[preset] if command == "gan_train" else {}
    layers = [demo, inherited or {}, preset_values, explicit]
    config = validate(COMMANDS[command], merge(*layers, {"data": {"path": path}}))
    if isinstance(config, GanTrainConfig) and "preset" in said:  # whoever names none overrules none
        _warn_of_overruled(config, explicit)
    return config


def _warn_of_overruled(config: GanTrainConfig, explicit: Mapping[str, Any]) -> None:
    """Name what was given beside the preset and is otherwise in it."""
    pure, used = (flatten(c.model_dump(mode="json")) for c in (preset_config(config.preset), config))
    fixed = {*RECIPE, *flatten(PRESETS[config.preset])} & flatten(explicit).keys()
    overruled = [key for key in changed_keys(pure, used) if key in fixed]
    if overruled:
        told = "; ".join(f"{key} {used[key]!r} (in the preset {pure[key]!r})" for key in overruled)
        log.warning("preset %s is overruled by settings given beside it: %s", config.preset, told)


def preset_config(name: str) -> GanTrainConfig:
    """A named preset laid over the defaults."""
    return validate(GanTrainConfig, merge(PRESETS[name], {"preset": name}))


def recipe_changes(config: GanTrainConfig) -> list[str] | None:
    """The settings of the recipe that are not those of the preset; None if there is no such preset any more."""
    if config.preset not in PRESETS:
        return None
    pure, used = (c.model_dump(include=set(RECIPE)) for c in (preset_config(config.preset), config))
    return changed_keys(pure, used)


def data_path(given: str | None) -> str:
    """The data that a run reads: what was given, else ``data/chest_xray`` if it is there, else the phantom set.

    A folder is made absolute, so that a later command finds it from wherever it is started.
    """
    if given is not None and not given.strip():
        raise UsageError("the data path is empty; give a folder, a MedMNIST .npz or 'phantom'")
    if given is None:
        given = str(DEFAULT_FOLDER) if DEFAULT_FOLDER.is_dir() else PHANTOM
    return given if given == PHANTOM else str(Path(given).expanduser().resolve())


def validate(model: type[SectionT], values: Mapping[str, Any]) -> SectionT:
    """Build a settings model; the first problem becomes one line that names the key."""
    check_keys(model, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        names, problems = setting_names(model), error.errors()
        path = [str(part) for part in problems[0]["loc"]]
        key = next(name for name in (".".join(path[:n]) for n in range(1, len(path) + 1)) if name in names)
        depth = key.count(".") + 1
        same = [p["msg"][:1].lower() + p["msg"][1:] for p in problems if ".".join(map(str, p["loc"][:depth])) == key]
        raise UsageError(f"setting {key!r} is {problems[0]['input']!r}: {', or '.join(same)}") from error


def check_keys(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Refuse a key that the model does not have, naming the nearest one that it has."""
    known = setting_names(model)
    for key, value in flatten(values).items():
        if key in known:
            continue
        section = key.rpartition(".")[0]
        if section in known:
            raise UsageError(f"setting {section!r} is a single value, not a mapping")
        if any(name.startswith(f"{key}.") for name in known):
            raise UsageError(f"setting {key!r} is {value!r}; expected a mapping")
        raise UsageError(f"unknown setting {key!r}; {nearest(key, known)}")


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All settings of a model by their dotted names."""
    names: list[str] = []
    for key, field in model.model_fields.items():
        nested = field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        names += setting_names(nested, f"{prefix}{key}.") if is_section else [prefix + key]  # type: ignore[arg-type]
    return names


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"data": {"path": p}}`` as ``{"data.path": p}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def changed_keys(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The asked-for settings, by their dotted names, that the saved ones contradict or lack."""
    before, after = flatten(saved), flatten(asked)
    return [k for k in sorted(after) if k not in before or _plain(before[k]) != _plain(after[k])]


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One phrase for a message per key of :func:`changed_keys`: ``steps (saved 4000, asked 200)``."""
    before, after = flatten(saved), flatten(asked)
    return [f"{k} (saved {before.get(k)!r}, asked {after[k]!r})" for k in changed_keys(saved, asked)]


def dump(section: Section) -> str:
    """A section as YAML."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False)


def config_hash(section: Section, exclude: set[str] | None = None) -> str:
    """Eight hex digits that name these settings, or what is left of them."""
    text = json.dumps(section.model_dump(mode="json", exclude=exclude), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
