"""The base of every settings model, and the settings of the data, which most commands share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from balancer.core.errors import UsageError
from balancer.core.setting_types import Channels, Conditions, Pairs, Pattern, Resize, Unset, Window, refuse_booleans

PHANTOM = "phantom"  # the data path that means "the built-in drawings"


class Settings(BaseModel):
    """Base of every settings model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    _no_switch = field_validator("*", mode="before")(classmethod(refuse_booleans))


class ColumnsConfig(Settings):
    """Which column of a table holds what; columns that are not named are known by their usual names."""

    path: Annotated[str | None, Unset("by its usual names")] = Field(None, description="Column of the image files.")
    label: Annotated[str | None, Unset("by its usual names")] = Field(None, description="Column of the classes.")
    patient: Annotated[str | None, Unset("by its usual names")] = Field(None, description="Column of the patients.")
    split: Annotated[str | None, Unset("by its usual names")] = Field(
        None, description="Column that says train, val or test."
    )
    source: Annotated[str | None, Unset("by its usual names")] = Field(
        None, description="Column of the site or device that an image comes from."
    )


class DataConfig(Settings):
    """Which images, how they are resized, and how test and validation are carved out."""

    path: Annotated[str | None, Unset("BALANCER_DATA, data/chest_xray, or phantom")] = Field(
        None, description="Folder of images, table (.csv, .tsv, .parquet), MedMNIST .npz, or phantom."
    )
    format: str = Field("auto", description="Reader: auto, chest, splits, classes, table or medmnist.")
    columns: ColumnsConfig = ColumnsConfig()
    images: Annotated[str | None, Unset("the folder of the table")] = Field(
        None, description="Folder below which a table's files lie."
    )
    where: Conditions = Field((), description="Rows of a table to read, such as modality=X-ray or view!=lateral.")
    classes: Pairs = Field((), description="Classes to read and their names here, such as COVID-19=positive.")
    task: Literal["auto", "binary", "multiclass"] = Field(
        "auto", description="auto: binary for two classes. The chest set has NORMAL, BACTERIAL and VIRAL in multiclass."
    )
    positive: Annotated[str | None, Unset("the class with fewer training images, or PNEUMONIA")] = Field(
        None, description="Positive class; of more than two classes, against the rest."
    )
    patients: Annotated[str | None, Unset("by the file names or the table")] = Field(
        None, description="Table of the patient of each file (.csv: path, patient)."
    )
    patient_pattern: Pattern | None = Field(
        None, description="Pattern with (?P<patient>...) in file names, or nih, chexpert, kaggle, mendeley, folder."
    )
    image_size: int = Field(64, ge=16, le=1024, description="Working size in pixels, square.")
    resize: Resize = Field("squash", description="squash, pad or crop images that are not square.")
    channels: Channels = Field(
        "auto", description="3 reads images in colour, 1 in grey; auto: 3 if any image is truly coloured."
    )
    window: Window = Field(
        "auto", description="Grey levels of DICOM files: auto (the window in the file), full, or CENTRE/WIDTH for all."
    )
    frame: Literal["single", "first"] = Field(
        "single", description="first: of a DICOM file with several frames, read the first."
    )
    dicom_source: Literal["model", "manufacturer", "year", "none"] = Field(
        "model", description="Source of DICOM images that name none: model (with its manufacturer), manufacturer, year."
    )
    test_fraction: Annotated[float | None, Unset("0.2 if the data name no split")] = Field(
        None, ge=0, lt=1, description="Share carved out for test, by patient."
    )
    val_fraction: Annotated[float | None, Unset("0.15, or the validation of the data")] = Field(
        None, ge=0, lt=1, description="Share of train carved out for validation, by patient."
    )
    split_seed: int = Field(0, description="Seed of these splits, apart from --seed.")
    split_by: Literal["patient", "source"] = Field(
        "patient", description="source: the test images are those of sources that training never sees."
    )
    minority: Annotated[int | None, Unset("all")] = Field(
        None,
        ge=16,
        le=10_000_000,
        description="Training images that the smallest class keeps, by whole patients; the rest lie idle."
        " For several numbers, take `classifier study --sizes`.",
    )
    ratio: Annotated[float | None, Unset("all")] = Field(
        None, ge=1, le=1e6, description="Training images of each other class, at most, for one of the smallest class."
    )
    strict: bool = Field(False, description="End with an error where patients or files cross splits or classes.")
    flips: bool = Field(
        False,
        description="Whether a mirrored image is as good as the image: GANs and augmentation then mirror at random.",
    )
    max_bad: float = Field(0.01, ge=0, le=1, description="Share of unreadable files above which the run stops.")

    @model_validator(mode="after")
    def _refuse_what_excludes_each_other(self) -> Self:
        if self.positive is not None and self.task == "multiclass":
            raise UsageError(
                f"positive is {self.positive!r}, which makes two classes, and task is multiclass; leave out one of them"
            )
        return self

    def without_paths(self) -> DataConfig:
        """Return these settings without the places of files, for what leaves this machine."""
        return self.model_copy(update=dict.fromkeys(PATHS_OF_DATA))


# Hashes of settings leave these out while they have their default, so that runs of before them stay the same runs.
ADDED_LATER = {"format", "columns", "images", "where", "classes", "positive", "patients", "patient_pattern"}
ADDED_LATER |= {"test_fraction", "split_by", "strict", "flips", "window", "frame", "dicom_source", "channels"}
ADDED_LATER |= {"minority", "ratio"}
ADDED_LATER_TO_COMMANDS = {"patients", "patient_pattern", "features", "channels"}
ADDED_LATER_TO_COMMANDS |= {"init_from", "freeze_discriminator", "consistency_weight", "consistency_augment"}
ADDED_LATER_TO_COMMANDS |= {"reconstruction_weight", "top_k", "lr_schedule", "meter", "step_mode", "augment_on"}
ADDED_LATER_TO_COMMANDS |= {"pretrain"}
PATHS_OF_DATA = ("path", "images", "patients")  # settings of the data that are paths
