"""The settings models: the defaults, and the only place where a default is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PHANTOM = "phantom"  # the data path that means "the built-in drawings"


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
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_numbers)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(_numbers)]
Trainable = Literal["all", "head"] | Annotated[int, Field(ge=1)]
Schedule = Literal["constant", "cosine", "step", "plateau", "one_cycle", "triangular"]
Doses = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_numbers)]


class Settings(BaseModel):
    """Base of every settings model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Settings):
    """Which images, how they are brought to one size, and how validation is carved out."""

    path: str | None = None  # a folder, a MedMNIST .npz, or "phantom"; None: data/chest_xray, else the phantom set
    image_size: int = Field(64, ge=16, le=1024)
    resize: Literal["squash", "pad", "crop"] = "squash"
    task: Literal["binary", "multiclass"] = (
        "binary"  # multiclass: PNEUMONIA as BACTERIAL and VIRAL, told by the file names
    )
    val_fraction: float | None = Field(None, ge=0, lt=1)  # None: 0.15 of a folder, the file's own split of an npz
    split_seed: int = 0
    max_bad: float = Field(0.01, ge=0, le=1)


class GanTrainConfig(Settings):
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


class QualityConfig(Settings):
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


class AuditConfig(Settings):
    """`balancer audit`."""

    data: DataConfig = DataConfig()
    seed: int = 0  # of the intervals' resampling and of cross-validation
    strict: bool = False  # a leak is an error, once the report is written


class StageConfig(Settings):
    """A stage of staged fine-tuning; what is None here is as in the settings around it."""

    epochs: float | None = Field(None, gt=0)  # passes over the real images of the training fold; None: steps
    steps: int | None = Field(None, ge=1)
    trainable: Trainable | None = None
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    schedule: Schedule | None = None
    lr_factor: float | None = Field(None, gt=0, lt=1)
    lr_patience: int | None = Field(None, ge=0)
    lr_period: float | None = Field(None, gt=0)
    lr_low: float | None = Field(None, ge=0)
    patience: int | None = Field(None, ge=0)
    evaluations: int | None = Field(None, ge=1)


class S2Config(Settings):
    """Sizes of the network s2_cnn: the published search space (docs/systems.md) is over these."""

    conv: Widths = (32, 64)
    dense: Widths = ()
    dropout: Shares = ()


class ClassifierConfig(Settings):
    """How a classifier is trained, whatever the regime."""

    data: DataConfig = DataConfig()
    seed: int = 0
    synthetic: Folders | None = None  # synthesis runs, one per GAN seed; None: the newest finished one
    synthetic_count: Annotated[int, Field(ge=1)] | Literal["deficit", "all"] = "deficit"
    # network
    model: str = "small_cnn"
    batch_norm: bool = True  # of our own networks
    s2: S2Config = S2Config()
    weights: str = "none"  # torchvision backbones: imagenet, none, or a state-dict file
    head: Literal["linear", "dense"] = (
        "linear"  # of a backbone: dropout and output; or pooling, dense layer, dropout, output
    )
    head_width: int = Field(512, ge=1)  # of the dense layer
    head_dropout: float = Field(0.0, ge=0, lt=1)
    head_l2: float = Field(0.0, ge=0)  # L2 penalty on the dense layer's weights, added to the loss
    outputs: Literal["sigmoid", "softmax"] | None = (
        None  # one output, or one per class; None: one where there are two classes
    )
    trainable: Trainable = "all"  # all, head, or N: the head and the N last layers with weights
    # None: imagenet with weights of any kind, else per_image. That per-image standardisation helps was first noticed on the
    # official test set of the chest X-rays, with one seed; inside train it is no better and no worse than unit (docs/results.md).
    normalisation: Literal["per_image", "unit", "symmetric", "imagenet"] | None = None
    augmentation: str = "mild"
    # optimisation
    steps: int = Field(1400, ge=1)
    exposure: Literal["steps", "real"] = "steps"  # equal in all regimes: optimiser steps, or passes over real images
    batch_size: int = Field(32, ge=2)
    accumulate: int = Field(1, ge=1)  # parts that a batch is computed in, one after the other, to save memory
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Schedule = "cosine"
    lr_factor: float = Field(0.1, gt=0, lt=1)  # of step and plateau: what the learning rate is multiplied by
    lr_patience: int = Field(3, ge=0)  # of plateau: validations without a better NLL before that
    lr_period: float = Field(4, gt=0)  # epochs between steps of step, or of half a triangle of triangular
    lr_low: float = Field(0.0, ge=0)  # the lower end of triangular
    stages: tuple[StageConfig, ...] = ()  # staged fine-tuning; none: one stage, with the settings here
    patience: int = Field(0, ge=0)  # validations without a better NLL that end a stage; 0: no early stopping
    ema_decay: float = Field(0.99, ge=0, lt=1)  # of the averaged weights that are validated and kept; 0: no averaging
    # BatchNorm's: running means over augmented batches, or re-estimated on training images without augmentation
    bn_statistics: Literal["running", "reestimated"] = "reestimated"
    # loss
    class_weights: Literal["none", "balanced", "complement", "positive"] = "none"  # of every regime; see losses
    positive_factor: float = Field(1.0, gt=0)  # of class_weights positive
    focal_gamma: float = Field(2.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)  # a label is learnt as so far from 0 and 1
    # watching
    evaluations: int = Field(5, ge=1)  # number of validations, evenly spread over the steps of a stage
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    selection: Literal["best_val_nll", "last"] = "last"
    threshold: str = "balanced_accuracy"

    @property
    def input_normalisation(self) -> str:
        """The normalisation in force."""
        return self.normalisation or ("per_image" if self.weights == "none" else "imagenet")


class TrainConfig(ClassifierConfig):
    """`classifier train`: one classifier under one regime."""

    regime: str = "baseline"


class AblateConfig(ClassifierConfig):
    """`classifier ablate`: every regime times every trial seed."""

    regimes: Names = ("all",)
    seeds: int = Field(3, ge=1)
    doses: Doses = ()  # of synthetic images, in deficits, tried beside the main study


class TuneConfig(TrainConfig):
    """`classifier tune`: a search on validation; what the space names overrules the settings of the same name."""

    space: str = "wide"
    sampler: Literal["grid", "tpe", "random"] | None = None  # None: the space's own
    pruner: Literal["median", "none"] | None = None  # None: the space's own
    trials: int | None = Field(None, ge=1)  # None: every point of a grid, else 50
    seeds: int = Field(1, ge=1)  # trial seeds that the figure of a trial is the mean over


class ComponentsConfig(TrainConfig):
    """`classifier components`: the settings of the whole system; its switches are turned off one at a time."""

    seeds: int = Field(3, ge=1)


class CrossvalidateConfig(TrainConfig):
    """`classifier crossvalidate`: one regime on every fold of the images outside the test set."""

    folds: int = Field(5, ge=2)


class ReproduceConfig(Settings):
    """`classifier reproduce`: the settings of each system are in its own file; these say what is run, and what is changed in all."""

    systems: Names = ("all",)
    seed: int = 0
    seeds: int = Field(3, ge=1)
    regimes: Names = ()  # none: those of each system
    synthetic: Folders | None = None  # as in an ablation
    share: float = Field(
        1.0, gt=0, le=1
    )  # of the passes and steps of every stage, for a machine that is too slow for all
    changes: tuple[str, ...] = ()  # settings laid over those of each system, as KEY=VALUE


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

COMMANDS: dict[str, type[Settings]] = {
    "gan_train": GanTrainConfig,
    "synthesize": SynthesizeConfig,
    "evaluate": EvaluateConfig,
    "audit": AuditConfig,
    "train": TrainConfig,
    "ablate": AblateConfig,
    "tune": TuneConfig,
    "components": ComponentsConfig,
    "crossvalidate": CrossvalidateConfig,
    "reproduce": ReproduceConfig,
}
