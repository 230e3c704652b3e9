"""Self-supervised objectives: what a network learns from two random views of every image, without labels.

- SimSiam (Chen & He 2021, arXiv:2011.10566): from one view's output, a small network predicts the other view's. No
  gradient flows through what is predicted; without this stop all outputs could become alike.
- VICReg (Bardes et al. 2022, arXiv:2105.04906): both outputs agree, every output varies over the batch, and outputs do
  not repeat one another.

Neither compares an image with the others of its batch as negatives. So neither needs the batches of thousands of images
that SimCLR needs (Chen et al. 2020, arXiv:2002.05709), and 64 to 128 images on a CPU are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balancer.metrics.feature_training import blur, uniform, vicreg, warp

WIDTH = 512  # outputs of a projector
SMALLEST_CROP = 0.5  # share of the image's area: a smaller one may lose the finding
ANGLE = 0.17  # rad, 10 degrees to either side
EXPOSURE, CONTRAST, BRIGHTNESS = 0.4, 0.4, 0.2  # log of gamma; share; of the range from black to white
SHARPNESS = 64  # the largest sigma of a blur is the side of the image divided by this number


def view(images: Tensor, flips: bool, source: torch.Generator) -> Tensor:
    """Return a random view of images (B, C, H, W) in [0, 1]: a crop, rotated, of another exposure and sharpness.

    Crops and exposure are what self-supervision lives on (Chen et al. 2020). The ranges are narrow, since a crop can
    cut a finding off. Images are mirrored only where ``flips`` says that a mirrored image is as good.
    """
    n, size = len(images), images.shape[-1]
    side = uniform(n, SMALLEST_CROP, 1.0, source).sqrt()
    shift = (1 - side)[:, None] * (torch.rand(n, 2, generator=source) - 0.5)
    x = warp(images, uniform(n, -ANGLE, ANGLE, source), side, shift, torch.zeros(n), source)
    gamma, gain, offset = (
        values.to(images.device)[:, None, None, None]
        for values in (
            uniform(n, -EXPOSURE, EXPOSURE, source).exp(),
            uniform(n, 1 - CONTRAST, 1 + CONTRAST, source),
            uniform(n, -BRIGHTNESS, BRIGHTNESS, source),
        )
    )
    x = x.clamp(0, 1) ** gamma
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * gain + mean + offset
    x = blur(x, uniform(n, 0, size / SHARPNESS, source) * (torch.rand(n, generator=source) < 0.5))
    mirrored = (torch.rand(n, generator=source) < 0.5).to(images.device)[:, None, None, None]
    return (torch.where(mirrored, x.flip(-1), x) if flips else x).clamp(0, 1)


def simsiam_loss(predicted: Tensor, outputs: Tensor) -> Tensor:
    """Return the mean of -cos(prediction from one view, output of the other), (2B, D) each; first views come first.

    The outputs are constants of the loss: no gradient flows through them.
    """
    first, second = outputs.detach().chunk(2)
    return -F.cosine_similarity(predicted, torch.cat([second, first])).mean()


def spread(outputs: Tensor) -> float:
    """Return how evenly outputs (n, D) are spread over the sphere: about 1 if they are, 0 if all are alike.

    The figure is the SD of the normalised outputs, a mean over dimensions, in units of 1 / sqrt(D) (Chen & He 2021).
    """
    return float(F.normalize(outputs.detach().float()).std(dim=0).mean()) * outputs.shape[1] ** 0.5


def _projector(features: int) -> list[nn.Module]:
    """Return two hidden layers and an output layer."""
    hidden = [
        layer
        for inputs in (features, WIDTH)
        for layer in (nn.Linear(inputs, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True))
    ]
    return [*hidden, nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False)]


class SimSiam(nn.Module):
    """A projector and a predictor, both thrown away after the pretraining."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.projector = nn.Sequential(*_projector(features))
        hidden = WIDTH // 4  # a bottleneck, as in the paper
        self.predictor = nn.Sequential(
            nn.Linear(WIDTH, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, WIDTH),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the outputs (2B, D) of features (2B, F); the first views of all images come first."""
        outputs = self.projector(features)
        return simsiam_loss(self.predictor(outputs), outputs), outputs


class VICReg(nn.Module):
    """A projector, thrown away after the pretraining. The coefficients are the paper's: 25, 25 and 1."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.projector = nn.Sequential(*_projector(features)[:-1])  # the loss itself asks for variance

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the outputs (2B, D) of features (2B, F); the first views of all images come first."""
        outputs = self.projector(features)
        first, second = outputs.chunk(2)
        one_class = torch.zeros(len(first), dtype=torch.long, device=features.device)
        return vicreg(first, second, one_class), outputs


Objective = SimSiam | VICReg
OBJECTIVES: dict[str, type[Objective]] = {"simsiam": SimSiam, "vicreg": VICReg}
