"""From pixels to probabilities: what a network is given, and what its logits mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import exact_float32, memory_format
from balancer.core.settings import ClassifierConfig

Array = np.ndarray
CHUNK = 128  # images that are predicted on at a time
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: Tensor, how: str) -> Tensor:
    """Grey (B, 1, H, W) in 0 to 255 to what the network sees.

    ``per_image`` subtracts each image's mean and divides by its SD, which takes exposure out; ``unit`` divides by 255;
    ``symmetric`` maps to [-1, 1]; ``imagenet`` gives three channels with ImageNet's mean and SD.
    """
    if how == "per_image":
        sd, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
        return (images - mean) / (sd + 1e-3)
    images = images / 255
    if how == "unit":
        return images
    if how == "symmetric":
        return 2 * images - 1
    mean, sd = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_SD))
    return (images - mean) / sd


def to_input(pixels: Array | Tensor, config: ClassifierConfig, device: torch.device) -> Tensor:
    """(B, H, W) uint8 to network input on the device."""
    whole = torch.from_numpy(np.ascontiguousarray(pixels)) if isinstance(pixels, np.ndarray) else pixels
    images = whole[:, None].to(device).float()
    return normalise(images, config.input_normalisation).contiguous(memory_format=memory_format(device))


def probabilities(logits: Tensor) -> Tensor:
    """Logits (B,) to P(PNEUMONIA) (B,), or (B, C) to a probability per class (B, C); float64 on the CPU."""
    logits = logits.cpu().double()  # MPS has no float64
    return logits.sigmoid() if logits.ndim == 1 else logits.softmax(dim=1)


@torch.no_grad()
def predict(
    model: nn.Module, pixels: Array, config: ClassifierConfig, device: torch.device, batch_size: int = CHUNK
) -> Array:
    """Probabilities float64 for images (n, H, W) uint8, in evaluation mode and float32.

    They are as the network gives them, without the temperature: one below 1 would round large ones to 1 and tie them.

    Returns:
        (n,), of PNEUMONIA, where there are two classes; (n, C), of each class, where there are more.
    """
    model.eval()
    with exact_float32(device):
        parts = [
            probabilities(model(to_input(pixels[i : i + batch_size], config, device)))
            for i in range(0, len(pixels), batch_size)
        ]
    scores: Array = torch.cat(parts).numpy()
    return scores
