"""The settings of `classifier`: how classifiers are trained, and what each command repeats or compares."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from balancer.core.errors import UsageError
from balancer.core.presets import QUICK_STUDY
from balancer.core.setting_types import (
    MOST_TRIALS,
    Batch,
    Changes,
    Doses,
    Folders,
    Images,
    Names,
    Optimizer,
    Patience,
    Precision,
    Repeats,
    Schedule,
    SearchRange,
    Shares,
    Sizes,
    StepMode,
    Steps,
    Trainable,
    Unset,
    Validations,
    Width,
    Widths,
)
from balancer.core.settings_base import DataConfig, Settings

THRESHOLD_RULES = ("half", "balanced_accuracy", "f1", "sensitivity=0.95", "specificity=0.95", "cost=5")


class StageConfig(Settings):
    """A stage of staged fine-tuning; what is null here is as in the settings around it."""

    epochs: float | None = Field(None, gt=0, le=1e6)  # passes over the real images of the training fold; None: steps
    steps: Steps | None = None
    trainable: Trainable | None = None
    optimizer: Optimizer | None = None
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    schedule: Schedule | None = None
    lr_factor: float | None = Field(None, gt=0, lt=1)
    lr_patience: Patience | None = None
    lr_period: float | None = Field(None, gt=0)
    lr_low: float | None = Field(None, ge=0)
    patience: Patience | None = None
    evaluations: Validations | None = None


class S2Config(Settings):
    """Sizes of the network s2_cnn: the published search space (docs/systems.md) is over these."""

    conv: Widths = Field((32, 64), description="Channels of each convolution.")
    dense: Widths = Field((), description="Units of each dense layer.")
    dropout: Shares = Field((), description="Dropout after each dense layer.")


class PretrainConfig(Settings):
    """Self-supervised pretraining of the network, before the training with labels (docs/transfer.md)."""

    method: Literal["none", "simsiam", "vicreg"] = Field(
        "none", description="Self-supervised pretraining on the training fold's real images, without their labels."
    )
    steps: Steps = Field(2000, description="Optimiser steps of the pretraining, beside those of the training.")
    batch_size: Annotated[int, Field(ge=16, le=65_536)] = Field(
        64, description="Images per step of the pretraining, each in two views."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate of the pretraining, of AdamW, falling by a cosine.")


class ClassifierConfig(Settings):
    """How a classifier is trained, whatever the regime."""

    data: DataConfig = DataConfig()
    seed: int = Field(0, description="Root seed of the run.")
    synthetic: Annotated[Folders | None, Unset("the newest")] = Field(
        None,
        description="A finished synthesis. ablate takes one per GAN seed, of several classes also one per class.",
    )
    synthetic_count: Images | Literal["deficit", "all"] = Field(
        "deficit", description="How many images of each synthesis."
    )
    # network
    model: str = Field(
        "small_cnn", description="small_cnn, small_resnet, s1_cnn, s2_cnn, or a torchvision name such as resnet18."
    )
    batch_norm: bool = Field(True, description="BatchNorm in the built-in networks.")
    s2: S2Config = S2Config()  # its keys have their own meanings
    weights: str = Field("none", description="Weights of a torchvision model.")
    pretrain: PretrainConfig = Field(PretrainConfig(), description="Self-supervised, before the training with labels.")
    head: Literal["linear", "dense"] = Field(
        "linear", description="linear: dropout, output; dense: pooling, dense layer, dropout, output."
    )
    head_width: Width = Field(512, description="Units of the dense layer.")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the output.")
    head_l2: float = Field(0.0, ge=0, description="L2 penalty on the dense layer's weights, added to the loss.")
    outputs: Annotated[Literal["sigmoid", "softmax"] | None, Unset("sigmoid where there are two classes")] = Field(
        None, description="One output, or one per class."
    )
    trainable: Trainable = Field("all", description="all, head, or N: the head and the N last layers with weights.")
    # That per-image standardisation helps was first noticed on the official test set of the chest X-rays, with one
    # seed; inside train it is no better and no worse than unit (docs/results.md).
    normalisation: Annotated[
        Literal["per_image", "unit", "symmetric", "imagenet"] | None,
        Unset("imagenet with weights of any kind, else per_image"),
        SearchRange(values=("per_image", "unit", "symmetric")),
    ] = Field(
        None, description="Of the pixels: each image (by channel) to mean 0 and SD 1, to 0..1, to -1..1, or ImageNet's."
    )
    augmentation: Annotated[str, SearchRange(values=("mild", "strong", "s2"))] = Field(
        "mild",
        description="Classical transforms: mild, strong, the same with changes drawn independently of one another"
        " (mild_independent, strong_independent), or a published system's: s0 to s4.",
    )
    # optimisation
    steps: Steps = Field(1400, description="Optimiser steps, the same in every regime.")
    exposure: Literal["steps", "real"] = Field(
        "steps", description="What is equal in all regimes: steps, or passes over real images."
    )
    batch_size: Annotated[Batch, SearchRange(values=(16, 32, 64))] = Field(32, description="Images per step.")
    accumulate: Width = Field(1, description="Parts that a batch is computed in, to save memory.")
    optimizer: Optimizer = Field("adamw", description="Of the classifier.")
    lr: Annotated[float, SearchRange(1e-4, 1e-2, log=True)] = Field(1e-3, gt=0, description="Learning rate.")
    weight_decay: Annotated[float, SearchRange(1e-4, 1e-1, log=True)] = Field(
        1e-2, ge=0, description="Decoupled weight decay; of adam and sgd an L2 penalty."
    )
    schedule: Annotated[Schedule, SearchRange(values=("constant", "cosine", "one_cycle"))] = Field(
        "cosine", description="Of the learning rate over the steps."
    )
    lr_factor: float = Field(0.1, gt=0, lt=1, description="Of step and plateau: what the rate is multiplied by.")
    lr_patience: Patience = Field(3, description="Of plateau: validations without a better NLL before that.")
    lr_period: float = Field(4, gt=0, description="Epochs: between steps of step, of half a triangle of triangular.")
    lr_low: float = Field(0.0, ge=0, description="The lower end of triangular.")
    stages: tuple[StageConfig, ...] = Field((), description="Staged fine-tuning; none: one stage, as set here.")
    patience: Patience = Field(0, description="Validations without a better NLL that end a stage; 0: none do.")
    ema_decay: Annotated[float, SearchRange(values=(0.0, 0.9, 0.99, 0.995))] = Field(
        0.99, ge=0, lt=1, description="Of the averaged weights that are validated and kept; 0: no averaging."
    )
    bn_statistics: Literal["running", "reestimated"] = Field(
        "reestimated", description="BatchNorm's: running, or reestimated on images without augmentation."
    )
    # loss
    class_weights: Literal["none", "balanced", "complement", "positive"] = Field(
        "none", description="Class weights of the loss, in every regime."
    )
    positive_factor: float = Field(
        1.0, gt=0, description="What class_weights positive multiplies the positive class by."
    )
    focal_gamma: float = Field(2.0, ge=0, description="gamma of the focal loss, for the control of that name.")
    label_smoothing: Annotated[float, SearchRange(0.0, 0.1)] = Field(
        0.0, ge=0, lt=0.5, description="A label is learnt as so far from 0 and 1."
    )
    # watching
    evaluations: Validations = Field(5, description="Validations, evenly spread over the steps of a stage.")
    precision: Precision = Field("auto", description="auto: bfloat16 where the hardware multiplies in it.")
    step_mode: Literal["auto", StepMode] = Field(
        "auto", description="plain, compiled, graph (CUDA alone), or auto: graph on CUDA, else plain."
    )
    augment_on: Literal["auto", "cpu", "device"] = Field(
        "auto", description="Where images are augmented. auto: mild and strong on a GPU, else on the CPU."
    )
    selection: Literal["best_val_nll", "last"] = Field("last", description="Which validation's weights are kept.")
    threshold: str = Field(
        "balanced_accuracy",
        description="How the threshold is chosen on validation. half, balanced_accuracy (the same as youden), f1, "
        "sensitivity=S, specificity=S or cost=C (a miss costs C false alarms).",
    )

    @model_validator(mode="after")
    def _refuse_what_excludes_each_other(self) -> Self:
        if 0 < self.focal_gamma < 1:
            raise UsageError(
                f"focal_gamma is {self.focal_gamma:g}: between 0 and 1 the gradient of a certain prediction is"
                " infinite; give 0, or 1 or more"
            )
        if self.accumulate > 1 and self.batch_size < 2 * self.accumulate:
            raise UsageError(
                f"accumulate is {self.accumulate} with batch_size {self.batch_size}; BatchNorm needs two images a part:"
                f" use at most {self.batch_size // 2}"
            )
        if self.pretrain.method == "none" and self.pretrain != PretrainConfig():
            key = next(k for k, v in self.pretrain if v != PretrainConfig.model_fields[k].default)
            raise UsageError(
                f"pretrain.{key} is {getattr(self.pretrain, key)} and pretrain.method is none; give"
                " pretrain.method=simsiam or vicreg, or leave the other out"
            )
        if self.pretrain.method != "none" and self.weights != "none":
            raise UsageError(
                f"pretrain.method is {self.pretrain.method} and weights is {self.weights!r}; pretraining begins with"
                " random weights, so leave one of them out"
            )
        for i, stage in enumerate(self.stages or (StageConfig(),), 1):
            which = f"stage {i}: " if self.stages else ""
            if stage.epochs is not None and stage.steps is not None:
                raise UsageError(f"{which}epochs is {stage.epochs:g} and steps is {stage.steps}; give one of the two")
            lr, low = (getattr(self, k) if (v := getattr(stage, k)) is None else v for k in ("lr", "lr_low"))
            if (stage.schedule or self.schedule) == "triangular" and low >= lr:
                raise UsageError(f"{which}lr_low is {low:g}; schedule triangular needs one below lr, which is {lr:g}")
        return self

    @property
    def input_normalisation(self) -> str:
        """The normalisation in force."""
        return self.normalisation or ("per_image" if self.weights == "none" else "imagenet")


class TrainConfig(ClassifierConfig):
    """`classifier train`: one classifier under one regime."""

    regime: str = Field("baseline", description="baseline, augment, gan, combined, or a control.")


class AblateConfig(ClassifierConfig):
    """`classifier ablate`: every regime times every trial seed."""

    regimes: Names = Field(
        ("all",),
        description="Groups (all: the 2 x 2 design; confirmatory; controls; shortcut; checks) or names such as "
        "baseline,gan.",
    )
    seeds: Repeats = Field(5, description="Paired trial seeds per regime; a verdict takes 3.")
    doses: Doses = Field((), description="Also so many synthetic images, in deficits, such as 0.25,0.5,2.")
    meter: bool = Field(True, description="Measure whether classifiers read being synthetic as a class.")


class TuneConfig(TrainConfig):
    """`classifier tune`: a search on validation; what the space names overrules the settings of the same name."""

    space: str = Field("wide", description="What is searched.")
    sampler: Annotated[Literal["grid", "tpe", "random"] | None, Unset("the space's")] = Field(
        None, description="How points are chosen."
    )
    pruner: Annotated[Literal["median", "none"] | None, Unset("the space's")] = Field(
        None, description="What ends poor trials early."
    )
    trials: Annotated[int | None, Unset("the grid, or 50")] = Field(
        None, ge=1, le=MOST_TRIALS, description="How many; --resume may ask for more."
    )
    seeds: Repeats = Field(1, description="Trial seeds per point; its figure is their mean.")


class ComponentsConfig(TrainConfig):
    """`classifier components`: the settings of the whole system; its switches are turned off one at a time."""

    seeds: Repeats = Field(5, description="Paired trial seeds; a test takes 3.")


class CrossvalidateConfig(TrainConfig):
    """`classifier crossvalidate`: one regime on every fold of the images outside the test set."""

    regime: str = Field(
        "baseline", description="A regime without synthetic images, such as baseline, augment or duplicate."
    )
    folds: int = Field(5, ge=2, le=1000, description="How many, with whole patients and equal class shares.")


class ReproduceConfig(Settings):
    """`classifier reproduce`: what is run, and what is changed in all systems. The settings of each are in its file."""

    systems: Names = Field(("all",), description="Names of published systems, or all.")
    seed: int = Field(0, description="Root seed of the run.")
    seeds: Repeats = Field(5, description="Trial seeds of each system; a verdict takes 3.")
    regimes: Annotated[Names, Unset("each system's own")] = Field((), description="Regimes of every system.")
    synthetic: Annotated[Folders | None, Unset("the newest")] = Field(
        None, description="A finished synthesis, for s2_cnn_gan. One per GAN seed."
    )
    share: float = Field(1.0, gt=0, le=1, description="Share of each system's training that is run.")
    changes: tuple[str, ...] = Field((), description="KEY=VALUE, laid over the settings of each system.")


class StudyConfig(Settings):
    """`classifier study`: GANs and trials at each size of the minority class, and what is changed in their settings."""

    data: DataConfig = DataConfig()
    seed: int = Field(0, description="Root seed: GANs and trials count up from it.")
    sizes: Sizes = Field(("all",), description="Training images of the smallest class, such as 50,100,200,all.")
    gans: Repeats = Field(3, description="GANs at each size, with seeds of their own; a claim about the GAN takes 3.")
    seeds: Repeats = Field(5, description="Paired trial seeds per regime; a verdict takes 3.")
    regimes: Names = Field(
        ("confirmatory",), description="Groups or names; confirmatory: the regimes of the four tests that are planned."
    )
    gan: Changes = Field((), description="KEY=VALUE, settings of each GAN, such as steps=4000.")
    synthesis: Changes = Field((), description="KEY=VALUE, settings of each synthesis.")
    classifier: Changes = Field((), description="KEY=VALUE, settings of each ablation, such as model=resnet18.")
    quick: bool = Field(
        False,
        description="The sizes of a demonstration, with one GAN and three trial seeds if none are given: minutes, and"
        " no result.",
    )

    @model_validator(mode="before")
    @classmethod
    def _repeat_less_if_quick(cls, values: Any) -> Any:
        return {**QUICK_STUDY, **values} if isinstance(values, dict) and values.get("quick") is True else values

    @model_validator(mode="after")
    def _refuse_a_size_in_data(self) -> Self:
        if self.data.minority is not None:
            raise UsageError(f"minority is {self.data.minority}; a study names its sizes with --sizes")
        return self


REGIMES_OF_SITES = "A regime without synthetic images and copies, such as baseline, augment or weighted."


class FederationConfig(TrainConfig):
    """What a federation trains, and in how many rounds; the settings of a classifier are those of every site."""

    regime: str = Field("baseline", description=REGIMES_OF_SITES)
    rounds: int = Field(20, ge=1, le=100_000, description="Rounds that part the optimiser steps of every site.")
    mu: float = Field(0.01, ge=0, le=1e6, description="Of fedprox: weight of the distance from the round's start.")
    round_seconds: float = Field(
        3600.0,
        gt=0,
        le=1e7,
        description="Seconds after which a round goes on without the sites that have not answered.",
    )


class FederateConfig(FederationConfig):
    """`classifier federate`: a federation on one machine, compared with each site alone and with pooled data."""

    simulate: Literal["source", "dirichlet"] = Field(
        "source", description="How patients are dealt to sites: by the images' source, or with label skew."
    )
    sites: Annotated[int | None, Unset("as many as there are sources of each class; with dirichlet 3")] = Field(
        None, ge=2, le=1000, description="How many."
    )
    alpha: float = Field(1.0, gt=0, le=1e6, description="Of dirichlet: the smaller, the more the sites differ.")
    algorithms: Names = Field(("fedavg", "fedprox"), description="fedavg, fedprox, fedbn and fedprox_bn.")
    seeds: Repeats = Field(3, description="Paired trial seeds of each way of training; a verdict takes 3.")


class FederateServeConfig(FederationConfig):
    """`classifier federate-serve`: the server of a federation. The server sees no image."""

    algorithm: str = Field("fedavg", description="fedavg, fedprox, fedbn or fedprox_bn.")
    sites: int = Field(2, ge=1, le=1000, description="Sites to wait for before the first round.")
    class_names: Names = Field(
        ("NORMAL", "PNEUMONIA"),
        description="Classes that every site must have, in this order; of two the last is positive.",
    )
    wait: float = Field(3600.0, gt=0, le=1e7, description="Seconds to wait for the sites.")


class FederateJoinConfig(TrainConfig):
    """`classifier federate-join`: one site of a federation. Its images stay where they are."""

    regime: str = Field("baseline", description=REGIMES_OF_SITES)
