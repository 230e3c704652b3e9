"""DiffAugment (Zhao et al. 2020, arXiv:2006.10738): the same random, differentiable change to real and fake images.

The discriminator only sees changed images, so it cannot memorise the training set. Fakes pass through the same changes
with gradients, so the generator has no reason to imitate the changes. Strengths are the paper's. There is no flip: the
heart is on the left. Images are (B, 1 or 3, H, W) in [-1, 1]. Random numbers come from a CPU generator, so that they
are the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.core import ranks
from balancer.core.errors import UsageError, lookup
from balancer.core.stepping import Source, drawn


def _uniform(images: Tensor, generator: Source) -> Tensor:
    """Return one number in [0, 1) per image, (B, 1, 1, 1) float32."""
    draw = ranks.shared(lambda n, source: torch.rand(n, 1, 1, 1, generator=source), len(images))
    return drawn(generator, draw, images.device)


def _integers(images: Tensor, low: int, high: int, generator: Source) -> Tensor:
    """Return one integer in [low, high] per image, (B, 1)."""
    draw = ranks.shared(lambda n, source: torch.randint(low, high + 1, (n, 1), generator=source), len(images))
    return drawn(generator, draw, images.device)


def brightness(images: Tensor, generator: Source) -> Tensor:
    """Add a number in [-0.5, 0.5)."""
    return images + _uniform(images, generator).to(images.dtype) - 0.5


def saturation(images: Tensor, generator: Source) -> Tensor:
    """Scale the distance of each pixel's channels from their mean by a factor in [0, 2)."""
    mean = images.mean(dim=1, keepdim=True)
    return (images - mean) * (2 * _uniform(images, generator).to(images.dtype)) + mean


def contrast(images: Tensor, generator: Source) -> Tensor:
    """Scale the distance from the image's mean by a factor in [0.5, 1.5)."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images, generator).to(images.dtype) + 0.5) + mean


def translation(images: Tensor, generator: Source, ratio: float = 0.125) -> Tensor:
    """Shift by up to an eighth of the side in each direction; pixels from outside are 0, as in the paper."""
    height, width = images.shape[2:]
    reach_y, reach_x = int(height * ratio + 0.5), int(width * ratio + 0.5)
    down = _integers(images, -reach_y, reach_y, generator)
    right = _integers(images, -reach_x, reach_x, generator)
    rows = torch.arange(height, device=images.device)[None] - down + reach_y
    columns = torch.arange(width, device=images.device)[None] - right + reach_x
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y))
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, generator: Source, ratio: float = 0.5) -> Tensor:
    """Set a square of half the side to 0, centred anywhere in the image."""
    height, width = images.shape[2:]
    half_y, half_x = int(height * ratio + 0.5) // 2, int(width * ratio + 0.5) // 2
    centre_y = _integers(images, 0, height - 1, generator)
    centre_x = _integers(images, 0, width - 1, generator)
    rows = torch.arange(height, device=images.device)[None] - centre_y + half_y
    columns = torch.arange(width, device=images.device)[None] - centre_x + half_x
    in_rows, in_columns = (rows >= 0) & (rows < 2 * half_y), (columns >= 0) & (columns < 2 * half_x)
    keep = ~(in_rows[:, None, :, None] & in_columns[:, None, None, :])
    return images * keep


SATURATION = "saturation"
DIFFAUGMENT: dict[str, Callable[[Tensor, Source], Tensor]] = {
    "brightness": brightness,
    SATURATION: saturation,
    "contrast": contrast,
    "translation": translation,
    "cutout": cutout,
}


def check_policy(policy: Sequence[str], channels: int | None = None, setting: str = "diffaugment") -> None:
    """Refuse an unknown operation, and one that changes nothing in images of so many channels.

    ``setting`` names the policy in messages.

    Raises:
        UsageError: naming the operation and the nearest known one.
    """
    for name in policy:
        lookup(DIFFAUGMENT, name, setting)
    if SATURATION in policy and channels == 1:
        raise UsageError(f"{setting} has {SATURATION}, which changes nothing in grey images; leave it out")


def diff_augment(images: Tensor, policy: Sequence[str], generator: Source, probability: Tensor | None = None) -> Tensor:
    """Apply the operations of a policy in order, each with its own draw per image.

    With ``probability``, a scalar on the images' device, each operation changes each image with this probability, else
    always. Up to about .8 the changes do not leak into the generator's images (Karras et al. 2020, arXiv:2006.06676):
    unchanged images stay the most common kind.
    """
    for name in policy:
        changed = DIFFAUGMENT[name](images, generator)
        if probability is not None:
            # float32: bfloat16 rounds .999 to 1
            draw = _uniform(images, generator)
            changed = torch.where(draw < probability, changed, images)
        images = changed
    return images
