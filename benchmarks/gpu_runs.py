"""Parts of the GPU tier that run whole commands, or the backbones of published systems."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from gpu_parts import Figures, Tier, gan_config, rate, recipe, small_set
from torch import Tensor, nn

import balancer
import classifier
from balancer.core.config import validate
from balancer.core.device import memory_format
from balancer.core.settings import AblateConfig, ClassifierConfig, DataConfig, SynthesizeConfig
from classifier.models import build_model
from classifier.training.inputs import ImageInputs
from classifier.training.losses import make_loss
from classifier.training.regimes import REGIMES
from classifier.training.stages import stages
from classifier.training.step import make_optimizer, open_stepper, train_step

BACKBONES = ("s3_resnet50", "s4_densenet121", "s4_resnet50", "s4_resnet101", "s4_vgg16", "s4_convnext_base")
KEPT = ("model", "head", "head_width", "head_dropout", "outputs", "normalisation")  # settings of a backbone's file


def timed_gan(tier: Tier, size: int, seconds: float) -> Figures:
    """Train a GAN for about so many seconds, and write its images with the full report."""
    steps = 2 if tier.smoke else int(min(40_000, max(100, seconds * _steps_per_s(tier, size))) // 100 * 100)
    own: Figures = {"steps": steps, "snapshot_every": math.ceil(steps / 3)}
    report: Figures = {"n": 500}
    if tier.smoke:
        own |= {"snapshot_every": steps, "snapshot_images": 8, "features": "random"}
        report = {"n": 8, "two_sample": False, "kid_subsets": 2, "features": "random"}
    config, folder = gan_config(tier, size, **own), tier.out / f"gan_{size}"
    begin = time.perf_counter()
    trained = balancer.train_gan(config, folder, str(tier.device), force=True).result
    middle = time.perf_counter()
    figures = tier.begun
    figures |= {"steps": steps, "seconds of training": middle - begin, "summary": trained.to_json()}
    settings = SynthesizeConfig(gan_run=str(folder), inception="off", **report)
    made = balancer.synthesize(settings, tier.out / f"synthetic_{size}", str(tier.device), force=True).result
    figures |= {"seconds of the report": time.perf_counter() - middle, "quality": made.to_json()["quality"]}
    return figures


def _steps_per_s(tier: Tier, size: int) -> float:
    """Return the steps per second that ``auto`` should reach: as measured before, if they were."""
    rates = tier.results.get("gan_speed", {}).get(str(size), {})
    return float(rates.get(tier.modes[-1], 60.0))


def gan_128_part(tier: Tier) -> Figures:
    """Train gpu.yaml's GAN at 128 px for three minutes with its snapshots, then write its full report."""
    return timed_gan(tier, 128, 165)


def s2_148_part(tier: Tier) -> Figures:
    """Train S2's own GAN at 148 px for a minute."""
    return timed_gan(tier, 148, 50)


def regimes_part(tier: Tier) -> Figures:
    """Run four regimes x 3 trial seeds at 128 px, of 300 steps each, with the images of gan_128."""
    own: Figures = {"steps": 300, "batch_size": 64, "synthetic_count": 500}
    if tier.smoke:
        own = {"steps": 2, "batch_size": 8, "synthetic_count": 8}
    own |= {"evaluations": 1, "seeds": 3, "meter": False, "regimes": ("all",)}
    data, synthetic = DataConfig(path=tier.data, image_size=tier.sizes[128]), (str(tier.out / "synthetic_128"),)
    config = AblateConfig(data=data, synthetic=synthetic, **own)
    begin = time.perf_counter()
    analysis = classifier.ablate(config, tier.out / "regimes", str(tier.device), force=True).result.analysis
    return {"seconds": time.perf_counter() - begin, "verdict": analysis.verdict, "analysis": analysis.to_json()}


def backbones_part(tier: Tier) -> Figures:
    """Train the backbones of S3 and S4 at 224 px from random weights: images per second, and peak memory."""
    figures = tier.begun
    for name in BACKBONES[:2] if tier.smoke else BACKBONES:
        values = recipe(f"seeds/{name}", "classifier")
        size, batch = (32, 2) if tier.smoke else (224, 32)
        kept = {key: values[key] for key in KEPT if key in values}
        config = validate(ClassifierConfig, {**kept, "batch_size": batch, "data": {"image_size": size}})
        figures[name] = {}
        for mode in tier.modes:
            if tier.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(tier.device)
            figures[name][mode] = batch * rate(tier, backbone_loop(config, tier.device, mode), 1.0)
            if tier.device.type == "cuda":
                figures[name][f"{mode}, peak GB"] = torch.cuda.max_memory_allocated(tier.device) / 1e9
    return figures


def backbone_loop(config: ClassifierConfig, device: torch.device, mode: str) -> Callable[[], Tensor]:
    """Return a function that trains a whole backbone on one batch of noise that lies on the device."""
    changed = config.model_copy(update={"step_mode": mode})
    model: nn.Module = build_model(changed).to(device).to(memory_format=memory_format(device))
    train, regime = small_set(changed), REGIMES["baseline"]
    stage = stages(changed, train)[0]
    optimizer, loss_of = make_optimizer(stage, model), make_loss(changed, regime, train, device)
    stepper = open_stepper(changed, stage, model, optimizer, loss_of, device)
    index = np.arange(changed.batch_size)
    y = torch.from_numpy(train.labels[index]).to(device)
    x = ImageInputs(changed, regime, train, train.images, 0, device).batch(index, 0)
    return lambda: stepper(x, y) if stepper else train_step(model, optimizer, loss_of, x, y, changed.precision)
