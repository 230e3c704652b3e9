"""The chest X-ray feature network that ships with the package: it works offline and is the same everywhere.

``benchmarks/train_chest_features.py`` trained it. ``docs/features.md`` shows what it responds to.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core.errors import BalancerError

WEIGHTS = Path(__file__).with_name("chest-xray-128.safetensors")
# Frozen: figures on other weights are other figures.
SHA256 = "f7c0733657e7b8119509d5bad84972eaa4a3578acf560c578a753596fb519d2b"


class ChestFeatures(nn.Module):
    """Map grey uint8 images (B, 1, H, W) to features (B, 128): four convolutions at stride 2 and a linear map.

    Images are brought to 64 px first, antialiased. The last map (4 x 4) is not pooled, so that the features keep where
    in the chest something lies.
    """

    DIM, SIZE, CHANNELS = 128, 64, (1, 32, 64, 96, 128)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(self.CHANNELS):
            kernel = 5 if c_in == 1 else 3
            conv = nn.Conv2d(c_in, c_out, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * self.CHANNELS[-1], self.DIM))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 128) of grey levels (B, 1, H, W), 0 to 255."""
        features: Tensor = self.layers(self.prepare(images))
        return features

    @classmethod
    def prepare(cls, images: Tensor) -> Tensor:
        """Return grey levels (B, 1, H, W), 0 to 255, as float (B, 1, 64, 64) in [-1, 1]."""
        return as_input(images, cls.SIZE)


def as_input(images: Tensor, side: int) -> Tensor:
    """Return grey levels (B, 1, H, W), 0 to 255, as float (B, 1, side, side) in [-1, 1], resized with antialiasing."""
    x = images.float()
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x / 127.5 - 1


def load(path: Path = WEIGHTS, sha256: str = SHA256) -> ChestFeatures:
    """Return the trained network in evaluation mode.

    Raises:
        BalancerError: If the file is missing or is not the frozen one.
    """
    from safetensors.torch import load as parse

    network = ChestFeatures()
    network.load_state_dict(parse(read_weights(path, sha256, f"{path} is missing; install the package again")))
    return network.eval().requires_grad_(False)


def read_weights(path: Path, sha256: str, missing: str) -> bytes:
    """Return the content of a file of weights, once its hash is checked: nothing may parse the file before.

    Args:
        path: file of weights.
        sha256: expected hash of the file, in hex.
        missing: message of the error if there is no such file.

    Raises:
        BalancerError: If there is no such file or it has another SHA-256.
    """
    if not path.is_file():
        raise BalancerError(missing)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise BalancerError(f"{path} has SHA-256 {digest[:12]}..., expected {sha256[:12]}...; it was not loaded")
    return content
