"""The settings of `balancer`: the GAN, the report on its images, and the audit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from balancer.core.errors import UsageError
from balancer.core.setting_types import (
    MOST_IMAGES,
    MOST_TRIALS,
    Batch,
    Channels,
    Names,
    Pattern,
    Precision,
    Repeats,
    Resize,
    StepMode,
    Steps,
    Unset,
    Width,
    off,
)
from balancer.core.settings_base import DataConfig, Settings

Features = Literal["auto", "chest", "own", "random"]
FEATURES = "chest, own (a network trained on the training fold), random, or auto: chest for chest X-rays, else own"


class GanTrainConfig(Settings):
    """`balancer gan-train`. A preset sets several of these at once; what is given beside it wins."""

    data: DataConfig = DataConfig()
    seed: int = Field(0, description="Root seed of the run.")
    preset: str = Field(
        "dcgan_diffaug",
        description="Recipe by name. dcgan_diffaug, dcgan (the paper's recipe), sngan_diffaug, wgan_gp, relativistic "
        "or s2 (148 px, for a GPU).",
    )
    target_class: Annotated[str | None, Unset("the minority class of the training fold")] = Field(
        None, description="Class to learn; all: a GAN for each class that lacks images."
    )
    # where training starts
    init_from: Annotated[str | None, Unset("random weights")] = Field(
        None, description="Finished gan-train run of the same networks and split, whose weights training starts from."
    )
    freeze_discriminator: int = Field(
        0, ge=0, le=64, description="First layers of D that keep the weights of init_from (FreezeD, Mo et al. 2020)."
    )
    # networks
    architecture: str = Field("dcgan", description="dcgan, excited, upsample, upsample_last, residual or s2.")
    z_dim: Width = Field(100, description="Size of the latent vector.")
    z_distribution: Literal["normal", "uniform"] = Field("normal", description="Distribution of the latent vector.")
    generator_width: Width = Field(32, description="Channels of G's last hidden layer.")
    discriminator_width: Width = Field(32, description="Channels of D's first layer.")
    discriminator_norm: Literal["batch", "spectral", "none"] = Field("batch", description="Normalisation in D.")
    minibatch_stddev: bool = Field(False, description="Show D how much the images of a batch differ.")
    # objective
    loss: str = Field("non_saturating", description="non_saturating, hinge, wasserstein or relativistic.")
    r1_weight: float = Field(0.0, ge=0, description="gamma: the penalty is gamma / 2 times the squared gradient.")
    r2_weight: float = Field(0.0, ge=0, description="As r1_weight, on synthetic images.")
    gradient_penalty_weight: float = Field(0.0, ge=0, description="lambda of WGAN-GP.")
    penalty_every: Steps = Field(1, description="D steps between penalties, which are that many times as strong.")
    lecam_weight: float = Field(0.0, ge=0, description="LeCam regularisation (Tseng et al. 2021) of D's outputs.")
    consistency_weight: float = Field(
        0.0, ge=0, description="Penalty on how far consistency_augment moves D's outputs, of real and synthetic images."
    )
    consistency_augment: Names = Field(("translation",), description="DiffAugment's transforms that must not matter.")
    reconstruction_weight: float = Field(
        0.0, ge=0, description="D also draws real images again from its features (FastGAN, Liu et al. 2021)."
    )
    top_k: float = Field(
        1.0, gt=0, le=1, description="Share of each batch, best by D, that G learns from in the second half."
    )
    # augmentation of what D sees
    diffaugment: Names = Field(("translation",), description="DiffAugment's transforms of what D sees.")
    ada_target: Annotated[float | None, Unset("augment every image")] = Field(
        None, gt=-1, lt=1, description="ADA: the augmentation probability follows r_t to this target."
    )
    ada_images: int = Field(
        100_000, ge=1, le=10**9, description="Images over which the probability can go from 0 to 1."
    )
    # optimisation
    steps: Steps = Field(16_000, description="Optimiser steps.")
    batch_size: Batch = Field(32, description="Images per step.")
    n_dis: Repeats = Field(1, description="D steps per G step.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Of both networks.")
    lr_generator: float = Field(2e-4, gt=0, description="Learning rate of G.")
    lr_discriminator: float = Field(2e-4, gt=0, description="Learning rate of D.")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: both learning rates fall to 0 at the last step."
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the mean gradient.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient.")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights of G; 0: no averaging.")
    precision: Precision = Field("auto", description="auto: bfloat16 where the hardware multiplies in it.")
    step_mode: Literal["auto", StepMode] = Field(
        "auto", description="plain, compiled, graph (CUDA alone), or auto: graph on CUDA, else plain."
    )
    # watching
    log_every: Steps = Field(50, description="Steps between log lines.")
    snapshot_every: Steps = Field(1000, description="Steps between grid, quality and checkpoint.")
    snapshot_images: int = Field(1000, ge=2, le=MOST_IMAGES, description="Images that the quality is measured on.")
    features: Features = Field("auto", description=f"Features that snapshots are measured on: {FEATURES}.")
    selection: Literal["kid", "frechet", "last"] = Field("kid", description="Which snapshot `synthesize` takes.")
    min_diversity: float = Field(
        0.02, ge=0, lt=1, description="Training stops below this share of the real images' variance."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard events too.")

    @model_validator(mode="after")
    def _refuse_what_excludes_each_other(self) -> Self:
        if self.discriminator_norm == "batch":
            for name in ("r1_weight", "r2_weight", "gradient_penalty_weight"):
                if getattr(self, name):
                    raise UsageError(
                        f"{name} is {getattr(self, name):g} with discriminator_norm batch, which mixes the gradients of"
                        " a batch's images; give --set discriminator_norm=none or spectral"
                    )
        if self.loss == "wasserstein" and not self.gradient_penalty_weight and self.discriminator_norm != "spectral":
            raise UsageError(
                "loss wasserstein needs a Lipschitz discriminator; give --set discriminator_norm=spectral, or"
                " --set discriminator_norm=none --set gradient_penalty_weight=10"
            )
        if self.ada_target is not None and not self.diffaugment:
            raise UsageError(
                "ada_target adapts the probability of diffaugment, which is empty;"
                " give --set diffaugment=translation,cutout"
            )
        if self.freeze_discriminator and self.init_from is None:
            raise UsageError(
                f"freeze_discriminator is {self.freeze_discriminator} without init_from, so random weights would stay;"
                " give --init-from RUN, or leave freeze_discriminator out"
            )
        if self.consistency_weight and not self.consistency_augment:
            raise UsageError(
                f"consistency_weight is {self.consistency_weight:g} with an empty consistency_augment;"
                " give --set consistency_augment=translation,cutout"
            )
        return self


class QualityConfig(Settings):
    """What a report on synthetic images measures, whichever command writes it."""

    seed: int = Field(0, description="Root seed of the run.")
    inception: Annotated[str, BeforeValidator(off)] = Field(
        "auto", description="Inception weights for FID and KID: cached or downloaded (auto), off, or a file."
    )
    features: Features = Field("auto", description=f"Features that distances are taken on: {FEATURES}.")
    kid_subsets: int = Field(100, ge=1, le=MOST_TRIALS, description="Draws whose mean is the KID.")
    kid_subset_size: int = Field(100, ge=2, le=MOST_IMAGES, description="Images of each such draw.")
    two_sample: bool = Field(True, description="Train classifiers to tell synthetic from real: the slowest part.")


class SynthesizeConfig(QualityConfig):
    """`balancer synthesize`."""

    data: DataConfig = DataConfig()
    n: Annotated[int | None, Unset("the deficit of the training fold")] = Field(
        None, ge=1, le=MOST_IMAGES, description="Images to export."
    )
    gan_run: Annotated[str | None, Unset("the newest")] = Field(None, description="A finished gan-train run.")


class ImportConfig(QualityConfig):
    """`balancer import`: images of another generator, and the data whose training fold it learnt from."""

    data: DataConfig = DataConfig()
    folder: str | None = Field(None, description="Folder of images, or of a folder for each class.")
    target_class: Annotated[str | None, Unset("a folder for each class")] = Field(
        None, description="Class of all images."
    )
    split_of: Annotated[str | None, Unset("the newest gan-train or ablate run, where no data are named")] = Field(
        None, description="Run whose data and split the generator was trained under, or a file that names its images."
    )
    n: Annotated[int | None, Unset("all")] = Field(
        None, ge=1, le=MOST_IMAGES, description="Images of each class, the first by name."
    )
    generator: Annotated[str | None, Unset("not known")] = Field(
        None, description="Name of the generator, for reports."
    )
    checkpoint: Annotated[str | None, Unset("not known")] = Field(
        None, description="File of the generator's weights: its SHA-256 tells the generator from others."
    )


class EvaluateConfig(QualityConfig):
    """`balancer evaluate`: two or three folders of images, so no data section."""

    features: Features = Field(
        "auto", description="Features that distances are taken on: chest, random, or auto: chest if file names say so."
    )
    real: str | None = Field(None, description="Real images; with --training, such as the generator never saw.")
    fake: str | None = Field(None, description="Synthetic images, or a synthesize run.")
    training: Annotated[str | None, Unset("--real")] = Field(None, description="What the generator learnt from.")
    image_size: Annotated[int | None, Unset("the smallest side found, up to 256")] = Field(
        None, ge=16, le=1024, description="Working size."
    )
    patients: Annotated[str | None, Unset("by the names of the Kaggle set")] = Field(
        None, description="Table of the patient of each real image (.csv: path, patient)."
    )
    patient_pattern: Pattern | None = Field(
        None, description="Pattern with (?P<patient>...) in file names, or nih, chexpert, kaggle, mendeley, folder."
    )
    resize: Resize = Field("squash", description="squash, pad or crop images that are not square.")
    channels: Channels = Field(
        "auto", description="3 compares in colour, 1 in grey; auto: 3 if any image is truly coloured."
    )
    max_bad: float = Field(0.01, ge=0, le=1, description="Share of unreadable files above which the run stops.")

    @model_validator(mode="after")
    def _refuse_what_needs_a_training_fold(self) -> Self:
        if self.features == "own":
            raise UsageError(
                "features is own, which needs the training fold of a data set, and `balancer evaluate` reads folders;"
                " give chest, random or auto"
            )
        return self


class AuditConfig(Settings):
    """`balancer audit`."""

    data: DataConfig = DataConfig()
    seed: int = Field(0, description="Root seed of the run, for intervals and cross-validation.")
    strict: bool = Field(False, description="End with an error if anything leaks between folds.")
