"""Methods that say which pixels speak for a class: a registry of flat functions.

Each takes the network in evaluation mode, images (N, C, H, W) as network input, classes (N,) int64, and the layer
whose maps it weighs, which two of the methods do without. Each returns maps (N, H, W) in float32, on the device. What
a pixel's value means is said with each method; none of them is a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.explain.layers import as_maps

PIXELS = 2**19  # of the network inputs in one pass: 128 images of 64 px, 10 of 224 px
IG_POINTS = 32  # of the quadrature
OCCLUDED = 8  # the occluding square is 1/8 of the image's shorter side; it moves by half its side


@dataclass(frozen=True)
class Method:
    """A method, and what a report says of it."""

    name: str
    title: str
    compute: Callable[[nn.Module, Tensor, Tensor, nn.Module], Tensor]
    source: str
    meaning: str  # what a bright pixel means
    uses_layer: bool = True
    white: float = 1.0  # the share of an image's pixels that lies below white
    cascaded: int = 24  # images that the cascade of randomised weights looks at
    stages: int = 6  # of the cascade
    compared: int = 96  # images on which regimes are compared


def class_scores(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return the logit (N,) of each image's class; with two classes, class 0 has the negative logit of class 1."""
    logits: Tensor = model(images)
    if logits.ndim == 1:
        return torch.where(target == 1, logits, -logits)
    return logits.gather(1, target[:, None])[:, 0]


def mean_image(images: Tensor) -> Tensor:
    """Return what stands for "nothing to see": every pixel of an image is the image's mean, channel by channel.

    Black would be no neutral choice: in a radiograph black means air.
    """
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def gradcam(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> Tensor:
    """Return Grad-CAM: the layer's maps, each weighted by the mean gradient of the class score, and rectified."""
    maps, gradient = _maps_and_gradient(model, images, target, layer)
    return _weighted(maps, gradient.mean(dim=(2, 3)), images)


def gradcam_plus_plus(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> Tensor:
    """Return Grad-CAM++: as Grad-CAM, with weights that count each place of a map by itself.

    The paper derives the exponential of the score. In a network that is linear between its kinks, its second and third
    derivatives are powers of the gradient g times exp(score). So the coefficient g^2 / (2 g^2 + g^3 sum A) is
    1 / (2 + g sum A), and exp(score) is a factor of the entire map, which is left out.
    """
    maps, gradient = _maps_and_gradient(model, images, target, layer)
    denominator = 2 + gradient * maps.sum(dim=(2, 3), keepdim=True)
    usable = denominator.abs() > torch.finfo(torch.float32).eps
    weights = torch.where(usable, gradient.relu() / denominator, 0.0).sum(dim=(2, 3))
    return _weighted(maps, weights, images)


@torch.no_grad()
def scorecam(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> Tensor:
    """Return Score-CAM: a map weighs as much as the class score of the image seen through this map alone.

    The weights are the softmax of these scores over the maps. A constant map hides nothing and weighs nothing.
    """
    maps = _layer_maps(model, images, layer)
    lowest, highest = maps.amin(dim=(2, 3)), maps.amax(dim=(2, 3))
    constant = highest <= lowest
    scores = torch.full_like(lowest, -torch.inf)
    for k in _groups(maps.shape[1], images):
        shown = F.interpolate(maps[:, k], images.shape[2:], mode="bilinear")
        low, high = shown.amin(dim=(2, 3), keepdim=True), shown.amax(dim=(2, 3), keepdim=True)
        masks = (shown - low) / (high - low).clamp_min(torch.finfo(shown.dtype).tiny)
        scores[:, k] = _scores_of_variants(model, images[:, None] * masks[:, :, None], target)
    weights = scores.masked_fill(constant, -torch.inf).softmax(dim=1).nan_to_num()  # nan: every map is constant
    return _weighted(maps, weights, images)


def integrated_gradients(model: nn.Module, images: Tensor, target: Tensor, _layer: nn.Module) -> Tensor:
    """Return integrated gradients from :func:`mean_image` to the image, summed over the channels.

    The pixels of a map add up to the difference of the class score between the two (completeness). The integral is a
    Gauss-Legendre quadrature.
    """
    start = mean_image(images)
    points, weights = np.polynomial.legendre.leggauss(IG_POINTS)
    total = torch.zeros_like(images)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        with torch.enable_grad():
            between = (start + float(point) * (images - start)).requires_grad_()
            (gradient,) = torch.autograd.grad(class_scores(model, between, target).sum(), between)
        total += float(weight) * gradient
    return ((images - start) * total).sum(dim=1)


@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, target: Tensor, _layer: nn.Module) -> Tensor:
    """Return how much the class score falls when a square around a pixel gives way to the image's mean.

    A pixel has the mean fall of the squares that cover the pixel.
    """
    height, width = images.shape[2:]
    side = max(1, round(min(height, width) / OCCLUDED))
    corners = [(y, x) for y in _starts(height, side) for x in _starts(width, side)]
    covers = torch.zeros(len(corners), height, width, dtype=torch.bool, device=images.device)
    for cover, (y, x) in zip(covers, corners, strict=True):
        cover[y : y + side, x : x + side] = True
    uncovered, hidden = class_scores(model, images, target), mean_image(images)[:, None]
    falls = torch.zeros(len(images), height, width, device=images.device)
    for k in _groups(len(corners), images):
        cover = covers[k]
        variants = torch.where(cover[None, :, None], hidden, images[:, None])
        scores = _scores_of_variants(model, variants, target)
        falls += torch.einsum("nk,khw->nhw", uncovered[:, None] - scores, cover.to(falls.dtype))
    return falls / covers.sum(dim=0)


def _starts(length: int, side: int) -> list[int]:
    """Return where squares begin, half a side apart; the last ends at the edge."""
    return sorted({*range(0, length - side, max(1, side // 2)), length - side})


def _groups(n: int, images: Tensor) -> Iterator[slice]:
    """Yield slices of ``n`` variants of the images, as many as fit into one pass."""
    size = max(1, PIXELS // images[:, 0].numel())
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def _scores_of_variants(model: nn.Module, variants: Tensor, target: Tensor) -> Tensor:
    """Return the class scores (N, K) of K variants of each image (N, K, C, H, W)."""
    k = variants.shape[1]
    return class_scores(model, variants.flatten(0, 1), target.repeat_interleave(k)).unflatten(0, (-1, k))


def _weighted(maps: Tensor, weights: Tensor, images: Tensor) -> Tensor:
    """Return the rectified sum of maps (N, K, h, w) under weights (N, K), enlarged to the images (N, H, W)."""
    together = torch.einsum("nkhw,nk->nhw", maps, weights).relu()
    return F.interpolate(together[:, None], images.shape[2:], mode="bilinear")[:, 0]


def _layer_maps(model: nn.Module, images: Tensor, layer: nn.Module) -> Tensor:
    """Return the maps (N, K, h, w) that a layer gives of the images."""
    any_class = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return _required_maps(_watched(model, images, any_class, layer)[0].detach(), images)


def _maps_and_gradient(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a layer's maps (N, K, h, w), and the gradient of the class scores by the maps in the same shape."""
    output, scores = _watched(model, images, target, layer)
    (gradient,) = torch.autograd.grad(scores.sum(), output)
    return _required_maps(output.detach(), images), _required_maps(gradient, images)


def _watched(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a layer's output as a leaf, and the class scores as a function of this leaf."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # what lies below the layer needs no gradient, and so no memory
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()  # the next layer may change its input in place

    hook = layer.register_forward_hook(keep)
    try:
        with torch.no_grad():
            scores = class_scores(model, images, target)
    finally:
        hook.remove()
    return outputs[-1], scores


def _required_maps(output: Tensor, images: Tensor) -> Tensor:
    maps = as_maps(output, (images.shape[2], images.shape[3]))
    if maps is None:
        raise ValueError(f"the layer gives {tuple(output.shape)}, which is no map")
    return maps


# What takes a hundred passes an image is cascaded on fewer: the cascade makes as many maps as 120 images would.
METHODS = {
    method.name: method
    for method in (
        Method(
            "gradcam",
            "Grad-CAM",
            gradcam,
            "Selvaraju et al. 2017, arXiv:1610.02391",
            "the layer's features there raise the class score",
        ),
        Method(
            "gradcam++",
            "Grad-CAM++",
            gradcam_plus_plus,
            "Chattopadhay et al. 2018, arXiv:1710.11063",
            "the layer's features there raise the class score, places weighted one by one",
        ),
        Method(
            "scorecam",
            "Score-CAM",
            scorecam,
            "Wang et al. 2020, arXiv:1910.01279",
            "the maps that are bright there keep the class score when they alone show the image",
            cascaded=12,
            stages=2,
            compared=24,
        ),
        Method(
            "integrated_gradients",
            "integrated gradients",
            integrated_gradients,
            "Sundararajan et al. 2017, arXiv:1703.01365",
            "the pixel itself raises the class score, against an image of the mean grey",
            uses_layer=False,
            white=0.99,
            cascaded=12,
            stages=2,
            compared=24,
        ),
        Method(
            "occlusion",
            "occlusion",
            occlusion,
            "Zeiler & Fergus 2014, arXiv:1311.2901",
            "the class score falls when a square there is greyed out",
            uses_layer=False,
            cascaded=12,
            stages=2,
            compared=24,
        ),
    )
}
