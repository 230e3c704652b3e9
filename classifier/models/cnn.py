"""Small CNNs for images (B, 1 or 3, H, W): logits (B,), positive for class 1, or (B, C) of more than two classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from balancer.core.errors import UsageError
from classifier.models.heads import as_logits


class S1CNN(nn.Module):
    """The small CNN of the published PneumoniaMNIST system (PyTorch): 615,521 parameters at 28 px with one output.

    Three blocks of two 3 x 3 convolutions with BatchNorm and ReLU, each followed by max-pooling and dropout .25; then
    dense layers of 256 and 128 with ReLU and dropout .5. Convolutions have a bias in front of BatchNorm too: only so
    is the parameter count the published one.
    """

    def __init__(self, image_size: int, batch_norm: bool = True, outputs: int = 1, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = channels
        for c_out in (32, 64, 128):
            for _ in range(2):
                layers.append(nn.Conv2d(c_in, c_out, 3, padding=1))
                layers += [nn.BatchNorm2d(c_out)] if batch_norm else []
                layers.append(nn.ReLU())
                c_in = c_out
            layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        first = [nn.Linear(c_in * (image_size // 8) ** 2, 256), nn.ReLU(), nn.Dropout(0.5)]
        second = [nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5)]
        self.head = nn.Sequential(*first, *second, nn.Linear(128, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of images (B, 1 or 3, H, W)."""
        return as_logits(self.head(self.features(images)))


class S2CNN(nn.Module):
    """The CNN of the published CNN + DCGAN system (Keras): 97,345 values at 148 px with the defaults.

    Blocks of a 3 x 3 convolution without padding, ReLU and max-pooling, with BatchNorm after the first block only; then
    dense layers with ReLU, each with its dropout. A dropout rate without a layer does nothing.
    """

    def __init__(
        self,
        image_size: int,
        conv: Sequence[int] = (32, 64),
        dense: Sequence[int] = (),
        dropout: Sequence[float] = (),
        batch_norm: bool = True,
        outputs: int = 1,
        channels: int = 1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, c_in = image_size, channels
        for i, c_out in enumerate(conv):
            side = (side - 2) // 2
            if side < 1:
                raise UsageError(
                    f"s2_cnn: {image_size} px is too small for {len(conv)} blocks; give fewer, or larger images"
                )
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
        self.layers = nn.Sequential(*layers, nn.Linear(features, outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # Keras's Glorot uniform
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of images (B, 1 or 3, H, W)."""
        return as_logits(self.layers(images))

    def features(self, images: Tensor) -> Tensor:
        """Return what the output layer takes, (B, F), of images (B, 1 or 3, H, W)."""
        features: Tensor = self.layers[:-1](images)
        return features


class SmallCNN(nn.Module):
    """Four stages of 3 x 3 convolutions with BatchNorm and ReLU, global average pooling, one output layer.

    About 300,000 parameters; any size of at least 16 px. Pooling over the whole map in place of flattening keeps the
    count small and ignores where in the image a finding lies (Lin et al. 2014, arXiv:1312.4400).
    """

    def __init__(
        self,
        image_size: int,
        width: int = 16,
        dropout: float = 0.3,
        batch_norm: bool = True,
        outputs: int = 1,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise UsageError(f"small_cnn needs images of at least 16 px; got {image_size}")
        layers: list[nn.Module] = []
        c_in = channels
        for stage in range(4):
            c_out = width * 2**stage
            for _ in range(1 if stage == 0 else 2):
                layers.append(nn.Conv2d(c_in, c_out, 3, padding=1, bias=not batch_norm))
                layers += [nn.BatchNorm2d(c_out)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                c_in = c_out
            layers.append(nn.MaxPool2d(2) if stage < 3 else nn.AdaptiveAvgPool2d(1))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(c_in, outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of images (B, 1 or 3, H, W)."""
        return as_logits(self.head(self.features(images)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, the first with a stride, and the input added (He et al. 2016, arXiv:1512.03385).

    Where the stride or the width changes, the input passes a 1 x 1 convolution.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, batch_norm: bool) -> None:
        super().__init__()

        def convolution(c: int, kernel: int, stride: int) -> nn.Sequential:
            layer = nn.Conv2d(c, c_out, kernel, stride, padding=kernel // 2, bias=not batch_norm)
            return nn.Sequential(layer, *([nn.BatchNorm2d(c_out)] if batch_norm else []))

        self.first, self.second = convolution(c_in, 3, stride), convolution(c_out, 3, 1)
        self.shortcut = convolution(c_in, 1, stride) if stride > 1 or c_in != c_out else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps (B, c_out, H / stride, W / stride) of maps (B, c_in, H, W)."""
        branch = self.second(F.relu(self.first(maps)))
        out: Tensor = self.activation(branch + self.shortcut(maps))
        return out


class SmallResNet(nn.Module):
    """A residual network of nine layers for small images: a 3 x 3 stem, four stages of one block, average pooling.

    About 310,000 parameters; any size of at least 16 px. A stage halves the image with a stride, not with pooling.
    """

    def __init__(
        self,
        image_size: int,
        width: int = 16,
        dropout: float = 0.3,
        batch_norm: bool = True,
        outputs: int = 1,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise UsageError(f"small_resnet needs images of at least 16 px; got {image_size}")
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=not batch_norm)
        widths = [width * 2**stage for stage in range(4)]
        blocks = [
            ResidualBlock(c_in, c_out, 1 if stage == 0 else 2, batch_norm)
            for stage, (c_in, c_out) in enumerate(zip([width, *widths], widths, strict=False))
        ]
        norm = [nn.BatchNorm2d(width)] if batch_norm else []
        self.features = nn.Sequential(
            stem, *norm, nn.ReLU(inplace=True), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[-1], outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of images (B, 1 or 3, H, W)."""
        return as_logits(self.head(self.features(images)))
