"""Classifier training images per second against a plain reference loop: same network, same batch, same process.

The reference is ImageFolder, a DataLoader, per-image albumentations and contiguous tensors, reading the JPEG files of
the training split at every step. Ours reads the decoded cache. With and without augmentation.

    BALANCER_DATA=DIR python benchmarks/classifier_speed.py [--steps 20] [--rounds 3]
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timing import arguments, compare

from balancer.augmentation.classical import Augmenter
from balancer.config import TrainConfig, resolve
from balancer.data.dataset import load_dataset, phantom_folder
from balancer.data.sampling import batch_indices
from balancer.device import limit_threads, memory_format, resolve_device
from classifier.models.cnn import SmallCNN
from classifier.trainer import make_optimizer, to_input


def ours(config: TrainConfig, augment: Augmenter | None, device: torch.device):
    data = load_dataset(config.data)
    train = data.indices("train")
    images, labels = np.ascontiguousarray(data.images[train]), data.labels[train]
    model = SmallCNN(config.data.image_size).to(device).to(memory_format=memory_format(device))
    optimizer, count = make_optimizer(config, model), 0

    def step() -> None:
        nonlocal count
        index = batch_indices(len(images), config.batch_size, count, 0)
        pixels = augment(images[index], index, count) if augment else images[index]
        loss = F.binary_cross_entropy_with_logits(
            model(to_input(pixels, config, device)), torch.from_numpy(labels[index]).to(device).float()
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        count += 1

    return step


def reference(config: TrainConfig, augment: Augmenter | None, device: torch.device, root: Path):
    from torchvision.datasets import ImageFolder

    size = config.data.image_size

    def transform(image):
        pixels = np.asarray(image.convert("L").resize((size, size)))
        if augment:
            pixels = augment(pixels[None], np.zeros(1, int), 0)[0]
        x = torch.from_numpy(pixels.copy())[None].float() / 255
        return (x - x.mean()) / (x.std() + 1e-3)

    loader = torch.utils.data.DataLoader(ImageFolder(root / "train", transform), config.batch_size, shuffle=True)
    model = SmallCNN(size).to(device)
    optimizer, batches = torch.optim.AdamW(model.parameters(), config.lr), iter(loader)

    def step() -> None:
        nonlocal batches
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            x, y = next(batches)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(x.to(device)), y.to(device).float()).backward()
        optimizer.step()

    return step


def main() -> None:
    asked = arguments(__doc__).parse_args()
    limit_threads()
    device = resolve_device(asked.device)
    config = resolve("train", {"data": {"path": os.environ.get("BALANCER_DATA")}})
    assert isinstance(config, TrainConfig)
    root = phantom_folder() if config.data.path == "phantom" else Path(str(config.data.path))
    for preset in (None, config.augmentation):
        augment = Augmenter(preset, 0) if preset else None
        loops = {"reference": reference(config, augment, device, root), "ours": ours(config, augment, device)}
        print(f"augmentation: {preset or 'none'}")
        compare(loops, asked, config.batch_size, device)


if __name__ == "__main__":
    main()
