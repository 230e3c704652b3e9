"""The small convolutional network of the two-sample test on pixels (:mod:`balancer.metrics.two_sample`)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core.device import exact_float32, memory_format
from balancer.core.pixels import channels_of, planes
from balancer.core.seeding import generator
from balancer.data.sampling import batch_indices

Array = np.ndarray
BATCH, LR, WEIGHT_DECAY = 64, 3e-3, 1e-2
# Above 128 px a side a batch holds fewer images, down to 16, since each image holds more.
FULL_BATCH_SIDE, SMALLEST_BATCH = 128, 16
CHUNK = 256  # images at once where no gradient is needed
MOST_KEPT = 1 << 27  # bytes of network inputs that are made once, for images that are drawn some forty times each
_MAKING_LAYERS = threading.Lock()  # of tests side by side: whose forks of torch's global stream must not overlap


class PixelNet(nn.Module):
    """Map levels (B, C, H, W), 0 to 255, to logits (B,) of being synthetic.

    Convolutions of stride 2 lead to a map of 8 px or less, followed by one more convolution, the mean over the map, and
    a linear logit. The network sees the image and what a 3 x 3 mean leaves of it. Checkerboards, noise and blur live in
    this residual, too faint beside a chest to be learnt from few images. Batch statistics normalise the inputs, not
    each image's own: the strength of the residual is evidence.
    """

    WIDTH, WIDEST, SLOPE = 16, 64, 0.1
    mean: Tensor
    sd: Tensor

    def __init__(self, side: int, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = c_in = 2 * channels
        c_out = self.WIDTH
        while side > 8:
            layers += self._block(c_in, c_out, stride=2)
            side, c_in, c_out = (side + 1) // 2, c_out, min(2 * c_out, self.WIDEST)
        layers += self._block(c_in, self.WIDEST, stride=1)
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.logit = nn.Linear(self.WIDEST, 1)
        self.register_buffer("mean", torch.zeros(1, inputs, 1, 1))
        self.register_buffer("sd", torch.ones(1, inputs, 1, 1))

    @classmethod
    def _block(cls, c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(cls.SLOPE)]

    def initialise(self, source: torch.Generator) -> None:
        """Draw the weights of He et al. 2015 from ``source`` alone."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, a=self.SLOPE, generator=source)
        nn.init.zeros_(self.logit.bias)

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Set mean and SD of each input from the training images."""
        total = torch.zeros(2, self.mean.shape[1], dtype=torch.float64)
        for chunk in images.split(CHUNK):
            inputs = self.inputs(chunk).double()
            total += torch.stack([inputs.sum((0, 2, 3)), inputs.square().sum((0, 2, 3))])
        mean, square = total / images[:, 0].numel()
        sd = (square - mean**2).clamp(min=0).sqrt()
        self.mean.copy_(mean.view(1, -1, 1, 1))
        self.sd.copy_(torch.where(sd > 0, sd, 1).view(1, -1, 1, 1))  # constant images

    @staticmethod
    def inputs(images: Tensor) -> Tensor:
        """Return the image and its residual (B, 2C, H, W)."""
        x = images.float()
        return torch.cat([x, x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)], dim=1)

    def standardised(self, images: Tensor) -> Tensor:
        """Return the inputs (B, 2C, H, W) of images, standardised."""
        return (self.inputs(images) - self.mean) / self.sd

    def classify(self, inputs: Tensor) -> Tensor:
        """Return the logits (B,) of standardised inputs."""
        logits: Tensor = self.logit(self.layers(inputs))
        return logits.squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,)."""
        return self.classify(self.standardised(images))


def train_on_pixels(
    images: Array, labels: Array, device: torch.device, seed: int, steps: int, advance: Callable[[], object]
) -> PixelNet:
    """Train by AdamW on the binary cross-entropy, with one cycle of the learning rate; return evaluation mode."""
    pixels, targets = planes(torch.from_numpy(images)), torch.from_numpy(labels).float().to(device)
    with _MAKING_LAYERS, torch.random.fork_rng(devices=[]):  # the layers draw weights, which initialise() replaces
        net = PixelNet(max(images.shape[1:3]), channels_of(images))
    net.initialise(generator(seed, "init"))
    net.standardise(pixels)
    net, pixels = net.to(device, memory_format=memory_format(device)), pixels.to(device)  # type: ignore[call-overload]
    batch = max(SMALLEST_BATCH, BATCH * FULL_BATCH_SIDE**2 // max(FULL_BATCH_SIDE, *images.shape[1:3]) ** 2)
    kept = _standardised(net, pixels) if _are_kept(pixels, steps * batch) else None
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    with exact_float32(device):
        for step in range(steps):
            chosen = torch.from_numpy(batch_indices(len(images), batch, step, seed)).to(device)
            inputs = net.standardised(pixels[chosen]) if kept is None else kept[chosen]
            loss = F.binary_cross_entropy_with_logits(net.classify(inputs), targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            advance()
    return net.eval()


def _are_kept(pixels: Tensor, drawn: int) -> bool:
    """Return whether the inputs of images are made once: where images are drawn again, and the inputs are few."""
    inputs = torch.float32.itemsize * 2 * pixels.numel()
    return len(pixels) < drawn and inputs <= MOST_KEPT


@torch.no_grad()
def _standardised(net: PixelNet, pixels: Tensor) -> Tensor:
    """Return the standardised inputs of all images."""
    return torch.cat([net.standardised(chunk) for chunk in pixels.split(CHUNK)])


@torch.no_grad()
def score_images(net: PixelNet, images: Array, device: torch.device) -> Array:
    """Return the logits (n,) of being synthetic."""
    with exact_float32(device):
        parts = [net(chunk.to(device)).cpu().numpy() for chunk in planes(torch.from_numpy(images)).split(CHUNK)]
    return np.concatenate(parts)
