"""The base of every settings model, and the settings of the data, which most commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from balancer.core.setting_types import Resize, Unset, refuse_booleans

PHANTOM = "phantom"  # the data path that means "the built-in drawings"


class Settings(BaseModel):
    """Base of every settings model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    _no_switch = field_validator("*", mode="before")(classmethod(refuse_booleans))


class DataConfig(Settings):
    """Which images, how they are resized, and how validation is carved out."""

    path: Annotated[str | None, Unset("BALANCER_DATA, data/chest_xray, or phantom")] = Field(
        None, description="Kaggle-layout folder, MedMNIST .npz, or phantom."
    )
    image_size: int = Field(64, ge=16, le=1024, description="Working size in pixels, square.")
    resize: Resize = Field("squash", description="squash, pad or crop images that are not square.")
    task: Literal["binary", "multiclass"] = Field(
        "binary", description="NORMAL and PNEUMONIA, or NORMAL, BACTERIAL and VIRAL by the file names."
    )
    val_fraction: Annotated[float | None, Unset("0.15, or the split of an .npz")] = Field(
        None, ge=0, lt=1, description="Share of train carved out for validation, by patient."
    )
    split_seed: int = Field(0, description="Seed of that split, apart from --seed.")
    max_bad: float = Field(0.01, ge=0, le=1, description="Share of unreadable files above which the run stops.")
