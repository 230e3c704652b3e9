"""Train the chest X-ray feature network of :mod:`balancer.metrics.chest`.

    python benchmarks/train_chest_features.py --data DIR --out chest-xray-128.safetensors

Class labels alone would collapse the variation within a class. A distance between sets of NORMAL images has to see that
variation. So the objective has three parts:

- VICReg (Bardes et al. 2022, arXiv:2105.04906) on two slightly different views of every image. Its variance and
  covariance terms are taken *within each class*: all 128 features have to vary among NORMAL images, each in its own
  way.
- A linear map must read the strengths of random degradations from the features of a third view. So what goes wrong with
  generated images (blur, white noise, contrast, brightness, elastic distortion, a checkerboard) moves the features.
- A small classification loss, for what separates NORMAL from PNEUMONIA.

Data: the training fold at 64 px, that is, the official train and val folders less the default validation fold, and no
test image. Batches hold both classes equally. One seed draws everything. The weights were frozen by their hash before
any generator was tuned on them.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core import progress
from balancer.core.config import data_path
from balancer.core.device import limit_threads
from balancer.core.files import atomic_file
from balancer.core.seeding import derive_seed, generator
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics.chest import ChestFeatures

log = logging.getLogger("balancer")
SEED, PER_CLASS, LR = 20220105, 64, 1e-3
STRENGTHS = ("blur", "noise", "contrast", "brightness", "elastic", "checkerboard")
INVARIANCE, VARIANCE, COVARIANCE, DEGRADATION, LABEL = 25.0, 25.0, 1.0, 8.0, 1.0


def uniform(n: int, low: float, high: float, source: torch.Generator) -> Tensor:
    """Draw (n,) in [low, high)."""
    return low + (high - low) * torch.rand(n, generator=source)


def warp(images: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, bend: Tensor, source: torch.Generator) -> Tensor:
    """Rotate (rad), zoom, shift (fractions of the side) and bend (pixels) images (B, 1, H, W); borders are repeated."""
    n, size = len(images), images.shape[-1]
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([torch.stack([cos, -sin, 2 * shift[:, 0]], 1), torch.stack([sin, cos, 2 * shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    coarse = torch.randn(n, 2, 7, 7, generator=source) * (2 * bend / size)[:, None, None, None]
    smooth = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + smooth.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def weak_view(images: Tensor, source: torch.Generator) -> Tensor:
    """Change what the features should not see: a few pixels of position, a little gain, a trace of noise."""
    n = len(images)
    moved = warp(
        images,
        uniform(n, -0.05, 0.05, source),
        uniform(n, 0.96, 1.04, source),
        torch.stack([uniform(n, -0.03, 0.03, source), uniform(n, -0.03, 0.03, source)], 1),
        torch.zeros(n),
        source,
    )
    gain, offset = uniform(n, 0.96, 1.04, source), uniform(n, -0.04, 0.04, source)
    noise = 0.02 * torch.randn(images.shape, generator=source)
    return (moved * gain[:, None, None, None] + offset[:, None, None, None] + noise).clamp(-1, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by Gaussians of ``sigma`` (B,) pixels, with reflected borders, through the Fourier transform."""
    size, pad = images.shape[-1], 8
    x = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    fy, fx = torch.fft.fftfreq(size + 2 * pad)[:, None], torch.fft.rfftfreq(size + 2 * pad)[None]
    transfer = torch.exp(-2 * (np.pi * sigma[:, None, None]) ** 2 * (fy**2 + fx**2))
    out = torch.fft.irfft2(torch.fft.rfft2(x) * transfer[:, None], s=x.shape[-2:])
    return out[..., pad:-pad, pad:-pad]


def degraded_view(images: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Degrade images in several ways at once; return them with the strengths (B, 6) in [0, 1] or [-1, 1], 0 for none.

    Half the images go without each degradation.
    """
    n = len(images)
    strength = torch.rand(n, len(STRENGTHS), generator=source)
    strength[:, 3] = 2 * strength[:, 3] - 1
    strength *= torch.rand(strength.shape, generator=source) < 0.5
    b, noise, contrast, bright, elastic, board = strength.T
    zero = torch.zeros(n)
    x = warp(images, zero, torch.ones(n), torch.zeros(n, 2), 3.0 * elastic, source)
    x = blur(x, 2.5 * b)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (1 - 0.6 * contrast)[:, None, None, None] + mean + 0.3 * bright[:, None, None, None]
    size = images.shape[-1]
    period = torch.where(torch.rand(n, generator=source) < 0.5, 2, 4)
    rows = torch.arange(size)[None] // (period[:, None] // 2)
    signs = 1.0 - 2.0 * ((rows[:, :, None] + rows[:, None, :]) % 2)
    x = x + 0.1 * board[:, None, None, None] * signs[:, None]
    x = x + 0.3 * noise[:, None, None, None] * torch.randn(images.shape, generator=source)
    return x.clamp(-1, 1), strength


def vicreg(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Return the VICReg loss: invariance over all images, variance and covariance within each class."""
    loss = INVARIANCE * F.mse_loss(first, second)
    for z in (first, second):
        for label in labels.unique():
            inside = z[labels == label]
            centred = inside - inside.mean(0)
            covariance = centred.T @ centred / (len(inside) - 1)
            spread = torch.sqrt(covariance.diagonal() + 1e-4)
            off = covariance - torch.diag(covariance.diagonal())
            loss = loss + (VARIANCE * F.relu(1 - spread).mean() + COVARIANCE * off.square().sum() / z.shape[1]) / 4
    return loss


def batch(data: Dataset, step: int) -> tuple[Tensor, Tensor]:
    """Return images (2 * PER_CLASS, 1, 64, 64) in [-1, 1] and labels, both classes equally."""
    rng = np.random.default_rng(derive_seed(SEED, "batch", step))
    chosen = np.concatenate([rng.choice(data.indices("train", label), PER_CLASS, replace=False) for label in (0, 1)])
    pixels = torch.from_numpy(np.ascontiguousarray(data.images[chosen]))[:, None]
    return ChestFeatures.prepare(pixels), torch.arange(2).repeat_interleave(PER_CLASS)


def train(data: Dataset, steps: int) -> ChestFeatures:
    """Train on the training fold of a data set at 64 px; return the network in evaluation mode."""
    torch.manual_seed(derive_seed(SEED, "init"))
    network = ChestFeatures().to(memory_format=torch.channels_last)
    strengths, label = nn.Linear(network.DIM, len(STRENGTHS)), nn.Linear(network.DIM, 1)
    parameters = [p for module in (network, strengths, label) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    with progress.bar(steps, "chest-xray-128", "step") as bar:
        for step in range(steps):
            source = generator(SEED, "views", step)
            images, labels = batch(data, step)
            worse, strength = degraded_view(images, source)
            views = torch.cat([weak_view(images, source), weak_view(images, source), worse])
            first, second, third = network.layers(views.contiguous(memory_format=torch.channels_last)).chunk(3)
            parts = {
                "vicreg": vicreg(first, second, labels),
                "degradation": DEGRADATION * F.mse_loss(strengths(third), strength),
                "label": LABEL * F.binary_cross_entropy_with_logits(label(first).squeeze(1), labels.float()),
            }
            optimizer.zero_grad(set_to_none=True)
            sum(parts.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            schedule.step()
            bar.update()
            if (step + 1) % 100 == 0:
                log.info("step %d: %s", step + 1, {k: round(float(v.detach()), 3) for k, v in parts.items()})
    return network.eval()


def main() -> None:
    """Train the network and write its weights with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the chest X-ray folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limit_threads()
    from safetensors.torch import save

    data = load_dataset(DataConfig(path=data_path(args.data), image_size=ChestFeatures.SIZE))
    begin = time.perf_counter()
    network = train(data, args.steps)
    metadata = {
        "name": "chest-xray-128",
        "data": json.dumps({k: data.describe()[k] for k in ("counts", "split_hash", "fingerprint")}),
        "trained_on": "train fold of Kermany et al. 2018, Cell 172(5), doi:10.1016/j.cell.2018.02.010, CC BY 4.0",
        "licence": "CC BY 4.0, attribution as above",
        "seed": str(SEED),
        "steps": str(args.steps),
        "torch": torch.__version__,
        "seconds": f"{time.perf_counter() - begin:.0f}",
    }
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    with atomic_file(args.out) as handle:
        handle.write(save(tensors, metadata))
    log.info("%s written", args.out)


if __name__ == "__main__":
    main()
