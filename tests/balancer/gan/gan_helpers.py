"""What the tests of the GAN share: tiny settings, a tiny data set, runs and comparisons of checkpoints."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balancer.core.config import PRESETS, resolve
from balancer.core.run import RunDir, RunRequest, open_run
from balancer.core.settings import GanTrainConfig
from balancer.core.tracking import NOT_TRACKED, tracked
from balancer.data.chest import CLASSES
from balancer.data.dataset import Dataset
from balancer.data.records import Record
from balancer.gan import trainer
from balancer.gan.step import train_step
from balancer.metrics.features import FeatureNetwork

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "data": {"path": "phantom", "image_size": 16},
    "z_dim": 5,
    "generator_width": 2,
    "discriminator_width": 2,
    "batch_size": 4,
    "steps": 8,
    "log_every": 2,
    "snapshot_every": 8,
    "diffaugment": [],  # what is tested is what a recipe adds to this
    "ema_decay": 0.99,
    "precision": "float32",  # the same on every machine; some recipes ask for the other
    "min_diversity": 0.0,  # nets this small make images this dull
}

# Recipes that no preset holds, chosen so that every ingredient meets several others.
RECIPES: dict[str, dict[str, Any]] = {
    "rmsprop, no average": {"optimizer": "rmsprop", "ema_decay": 0.0, "z_distribution": "uniform"},
    "upsample, lazy R1, minibatch sd": {
        "architecture": "upsample",
        "discriminator_norm": "none",
        "r1_weight": 2.0,
        "penalty_every": 3,
        "minibatch_stddev": True,
    },
    "everything adaptive": {
        "architecture": "residual",
        "discriminator_norm": "spectral",
        "loss": "hinge",
        "lecam_weight": 0.1,
        "n_dis": 2,
        "diffaugment": ["brightness", "translation", "cutout"],
        "ada_target": -0.9,
        "ada_images": 40,
    },
    "spectral WGAN, lazy": {
        "loss": "wasserstein",
        "discriminator_norm": "spectral",
        "gradient_penalty_weight": 1.0,
        "penalty_every": 2,
        "n_dis": 3,
    },
    "relativistic, augmented, TTUR": {
        "loss": "relativistic",
        "discriminator_norm": "none",
        "r1_weight": 1.0,
        "r2_weight": 0.5,
        "diffaugment": ["contrast"],
        "lr_discriminator": 4e-4,
        "lecam_weight": 0.01,
    },
    "bfloat16": {
        "precision": "bfloat16",
        "discriminator_norm": "none",
        "r1_weight": 1.0,
        "gradient_penalty_weight": 1.0,
    },
}


def config(**changes: Any) -> GanTrainConfig:
    """Tiny settings, but for the augmentation and averaging of a preset that is named."""
    own = {"diffaugment", "ema_decay"} & PRESETS.get(changes.get("preset", ""), {}).keys()
    base = {k: v for k, v in TINY.items() if k not in own}
    return resolve(GanTrainConfig, {**base, **changes})


def dataset(split_hash: str = "0123456789abcdef", size: int = 16, minority: int = 11) -> Dataset:
    """Noise; 11 + 20 training images, 4 + 4 for validation and for the test; every image a patient of its own."""
    rng = np.random.default_rng(0)
    layout = [("train", 0, minority), ("train", 1, 20), ("val", 0, 4), ("val", 1, 4), ("test", 0, 4), ("test", 1, 4)]
    folds = np.array([fold for fold, _, n in layout for _ in range(n)])
    labels = np.array([label for _, label, n in layout for _ in range(n)])
    names = [f"{fold}/{CLASSES[label]}/{i}.png" for i, (fold, label) in enumerate(zip(folds, labels, strict=True))]
    return Dataset(
        source="toy",
        images=rng.integers(0, 256, (len(folds), size, size), dtype=np.uint8),
        labels=labels,
        folds=folds,
        records=[Record(n, int(c), str(f), n, "") for n, c, f in zip(names, labels, folds, strict=True)],
        groups=names,
        digests=names,
        split_hash=split_hash,
        fingerprint="f" * 16,
    )


def pixel_features(_device: torch.device) -> FeatureNetwork:
    """A cheap stand-in for a feature network: the image brought down to 4 x 4."""
    return FeatureNetwork(
        "pixels", 16, "1", lambda x: F.adaptive_avg_pool2d(x.float(), 4).flatten(1) / 64, batch_size=64
    )


def run_at(path: Path, settings: GanTrainConfig, resume: bool = False) -> RunDir:
    request = RunRequest(resume=str(path)) if resume else RunRequest(out=path)
    return open_run("gan-train", settings, request)


def run_training(
    path: Path, settings: GanTrainConfig, data: Dataset | None = None, resume: bool = False
) -> trainer.GanSummary:
    with (
        run_at(path, settings, resume) as run,
        tracked(path, "gan-train", {}, NOT_TRACKED, (), trainer.trackers(settings)) as run.tracker,
    ):
        return trainer.train(settings, data or dataset(), run, CPU)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, signum: int) -> None:
    """Send this process a real signal while it makes a given step."""

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        if state.step == step - 1:
            os.kill(os.getpid(), signum)
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)


def contents(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{prefix}/{i}").items()}
    return {prefix: value}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    a, b = flat(first), flat(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), f"{key} differs by up to {(value - b[key]).abs().max()}"
        else:
            assert value == b[key], key
