"""From pixels to probabilities: the input of a network, and the meaning of its logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import exact_float32, memory_format, to_device
from balancer.core.gather import gather
from balancer.core.pixels import planes
from balancer.core.settings import ClassifierConfig
from balancer.data.subset import Subset
from classifier.novelty import penultimate
from classifier.training.record import check_scores

Array = np.ndarray
CHUNK = 128  # images per forward pass in prediction
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: Tensor, kind: str) -> Tensor:
    """Return images (B, 1 or 3, H, W) in [0, 255] as network input (B, 1 or 3, H, W).

    Args:
        images: the pixels, floating point.
        kind: ``per_image`` subtracts each image's mean and divides by its SD, channel by channel, which removes
            exposure and, of colour images, the cast; ``unit`` divides by 255; ``symmetric`` maps to [-1, 1];
            ``imagenet`` gives three channels with ImageNet's mean and SD.
    """
    if kind == "per_image":
        sd, mean = torch.std_mean(images, dim=(1, 2, 3) if images.shape[1] == 1 else (2, 3), keepdim=True)
        return (images - mean) / (sd + 1e-3)
    images = images / 255
    if kind == "unit":
        return images
    if kind == "symmetric":
        return 2 * images - 1
    mean, sd = (to_device(torch.tensor(v).view(1, 3, 1, 1), images.device) for v in (IMAGENET_MEAN, IMAGENET_SD))
    return (images - mean) / sd


def to_input(pixels: Array | Tensor, config: ClassifierConfig, device: torch.device) -> Tensor:
    """Return pixels (B, H, W) or (B, H, W, 3) uint8 as network input (B, 1 or 3, H, W) float32 on the device."""
    pixels = torch.from_numpy(np.ascontiguousarray(pixels)) if isinstance(pixels, np.ndarray) else pixels
    images = to_device(planes(pixels), device).float()
    return normalise(images, config.input_normalisation).contiguous(memory_format=memory_format(device))


def input_chunks(
    images: Array | Subset, config: ClassifierConfig, device: torch.device, size: int = CHUNK
) -> Iterator[Tensor]:
    """Yield images (n, H, W) or (n, H, W, 3) uint8 as network input, ``size`` images at a time."""
    return (to_input(images[i : i + size], config, device) for i in range(0, len(images), size))


def probabilities(logits: Tensor) -> Tensor:
    """Return P(class 1) (B,) of logits (B,), or P of every class (B, C) of logits (B, C); on the CPU, float64."""
    logits = logits.cpu().double()  # MPS has no float64
    return logits.sigmoid() if logits.ndim == 1 else logits.softmax(dim=1)


def log_odds(logits: Tensor, label: int) -> Tensor:
    """Return the logit (B,) of the probability of a class, for logits (B,) or (B, C); on the CPU, float64.

    >>> log_odds(torch.tensor([2.0, -1.0]), 0).tolist()
    [-2.0, 1.0]
    """
    logits = logits.cpu().double()
    if logits.ndim == 1:
        return logits if label == 1 else -logits
    others = [k for k in range(logits.shape[1]) if k != label]
    return logits[:, label] - logits[:, others].logsumexp(dim=1)


@torch.no_grad()
def predict_inputs(model: nn.Module, inputs: Iterable[Tensor], n: int, device: torch.device) -> Array:
    """Return the probabilities of ``n`` network inputs, in evaluation mode and float32, as :func:`predict` does.

    The inputs come in chunks (B, C, H, W).
    """
    model.eval()
    with exact_float32(device):
        return gather((probabilities(model(chunk)).numpy() for chunk in inputs), n)


def predict(
    model: nn.Module, images: Array | Subset, config: ClassifierConfig, device: torch.device, batch_size: int = CHUNK
) -> Array:
    """Return the probabilities of images (n, H, W) or (n, H, W, 3) uint8, float64, in evaluation mode.

    They are the network's own, without the temperature: a temperature below 1 would round large ones to 1 and tie them.

    Returns:
        (n,), the probability of class 1, if there are two classes; else (n, C), the probability of each class.

    Raises:
        BalancerError: if a probability is not finite.
    """
    inputs = input_chunks(images, config, device, batch_size)
    return check_scores(predict_inputs(model, inputs, len(images), device))


def predict_with_features(
    model: nn.Module, images: Array, config: ClassifierConfig, device: torch.device
) -> tuple[Array, Array]:
    """Return what :func:`predict` returns, and the features (n, F) of :func:`classifier.novelty.penultimate`."""
    with penultimate(model) as features:
        scores = predict(model, images, config, device)
    return scores, torch.cat(features).numpy()
