"""Small CNNs for grey images. Every model of this package gives one logit per image, positive for PNEUMONIA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from balancer.errors import UsageError


class S2CNN(nn.Module):
    """The CNN of the published CNN + DCGAN system (Keras): 97,345 values at 148 px with the defaults.

    (B, 1, H, W) to (B,). Blocks of 3 x 3 convolution without padding, ReLU, max-pooling, BatchNorm after the
    first block only; then flatten, dense layers with ReLU, dropout, one output.
    """

    def __init__(
        self,
        image_size: int,
        conv: Sequence[int] = (32, 64),
        dense: Sequence[int] = (),
        dropout: Sequence[float] = (),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, c_in = image_size, 1
        for i, c_out in enumerate(conv):
            side = (side - 2) // 2
            if side < 1:
                raise UsageError(f"{image_size} px is too small for {len(conv)} blocks of the S2 network")
            layers += [nn.Conv2d(c_in, c_out, 3), nn.ReLU(), nn.MaxPool2d(2)]
            if batch_norm and i == 0:
                layers.append(nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01))  # Keras's epsilon and momentum .99
            c_in = c_out
        layers.append(nn.Flatten())
        features = c_in * side**2
        for i, width in enumerate(dense):
            layers += [nn.Linear(features, width), nn.ReLU()]
            layers += [nn.Dropout(dropout[i])] if i < len(dropout) else []
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # Keras's Glorot uniform
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.flatten()


class SmallCNN(nn.Module):
    """Four stages of 3 x 3 convolution, BatchNorm and ReLU, average-pooled, one output; about 300,000 parameters.

    (B, 1, H, W) to (B,), any size of at least 16 px. Pooling over the whole map instead of flattening it keeps the
    count small and the net indifferent to where in the image a finding lies (Lin et al. 2014, arXiv:1312.4400).
    """

    def __init__(self, image_size: int, width: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        if image_size < 16:
            raise UsageError(f"small_cnn needs images of at least 16 px; got {image_size}")
        layers: list[nn.Module] = []
        c_in = 1
        for stage in range(4):
            c_out = width * 2**stage
            for _ in range(1 if stage == 0 else 2):
                layers += [
                    nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(c_out),
                    nn.ReLU(inplace=True),
                ]
                c_in = c_out
            layers.append(nn.MaxPool2d(2) if stage < 3 else nn.AdaptiveAvgPool2d(1))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(c_in, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return torch.flatten(logits)
