"""Classifier training images per second against a plain reference loop: same network, same batch, same process.

The reference reads the JPEG files of the training split at every step: ImageFolder, DataLoader, albumentations image by
image, contiguous tensors, float32. Ours reads the decoded cache, in float32 and in the precision that ``auto`` takes
here. Both run with and without augmentation.

    BALANCER_DATA=DIR python benchmarks/classifier_speed.py [--steps 20] [--rounds 3]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import arguments, compare
from torch import Tensor, nn

from balancer.augmentation.classical import Augmenter
from balancer.core.config import resolve
from balancer.core.device import limit_threads, memory_format, resolve_device, resolve_precision
from balancer.core.ema import exponential_average, update_average
from balancer.core.settings import TrainConfig
from balancer.data.dataset import load_dataset, phantom_folder
from classifier.models.cnn import SmallCNN
from classifier.training.inputs import ImageInputs
from classifier.training.losses import make_loss
from classifier.training.regimes import REGIMES, Regime
from classifier.training.step import make_optimizer, train_step
from classifier.training.training_set import BatchSampler, training_set


def ours(config: TrainConfig, regime: Regime, device: torch.device) -> Callable[[], None]:
    """Return a function that makes one training step of the classifier."""
    train = training_set(load_dataset(config.data), regime, None, 0, 0)
    model = SmallCNN(config.data.image_size).to(device).to(memory_format=memory_format(device))
    optimizer, loss_of = make_optimizer(config, model), make_loss(config, regime, train, device)
    sampler = BatchSampler(config, regime, train, 0)
    inputs = ImageInputs(config, regime, train, train.images, 0, device)
    labels, count = torch.from_numpy(train.labels).to(device), 0
    averaged = exponential_average(model, config.ema_decay) if config.ema_decay else None

    def step() -> None:
        nonlocal count
        index = sampler.indices(count)
        y = labels[torch.from_numpy(index).to(device)]
        train_step(model, optimizer, loss_of, inputs.batch(index, count), y, config.precision)
        if averaged is not None:
            update_average(averaged, model)
        count += 1

    return step


def reference(config: TrainConfig, augment: Augmenter | None, device: torch.device, root: Path) -> Callable[[], None]:
    """Return a function that makes one step of the reference loop."""
    from torchvision.datasets import ImageFolder

    size = config.data.image_size

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.convert("L").resize((size, size)))
        if augment:
            pixels = augment(pixels[None], np.zeros(1, int), 0)[0]
        x = torch.from_numpy(pixels.copy())[None].float() / 255
        return (x - x.mean()) / (x.std() + 1e-3)

    loader = torch.utils.data.DataLoader(ImageFolder(root / "train", transform), config.batch_size, shuffle=True)
    return plain_step(loader, SmallCNN(size).to(device), config.lr, device)


def plain_step(
    loader: Iterable[tuple[Tensor, Tensor]], model: nn.Module, lr: float, device: torch.device
) -> Callable[[], None]:
    """Return a function that makes one step as tutorials write it, on labels 0 and 1."""
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr), iter(loader)

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
    """Print the rates and their ratios."""
    args = arguments(__doc__).parse_args()
    limit_threads()
    device = resolve_device(args.device)
    config = resolve(TrainConfig, {"data": {"path": os.environ.get("BALANCER_DATA")}})
    root = phantom_folder() if config.data.path == "phantom" else Path(str(config.data.path))
    for name in ("baseline", "augment"):
        regime = REGIMES[name]
        augment = Augmenter(config.augmentation, 0) if regime.augment else None
        print(f"augmentation: {config.augmentation if regime.augment else 'none'}")
        plain = reference(config, augment, device, root)
        for precision in ("float32", "auto"):
            used = config.model_copy(update={"precision": precision})
            print(f"ours in {resolve_precision(device, precision, on_cpu=True)}:")
            compare({"reference": plain, "ours": ours(used, regime, device)}, args, config.batch_size, device)


if __name__ == "__main__":
    main()
