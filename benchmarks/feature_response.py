"""Measure what the shipped chest X-ray features respond to: real images against ever worse copies of other real images.

Half the NORMAL patients of the training fold are the reference. The other half is degraded more and more. Both
distances have to rise with every step of every degradation. The script also prints what the features hold, and whether
images that the network was trained on are measured like images that it never saw.

    BALANCER_DATA=DIR python benchmarks/feature_response.py [--out docs/images/feature_response.png]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from balancer.core.config import data_path
from balancer.core.device import limit_threads, resolve_device
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.split import patient_halves
from balancer.metrics.features import FeatureNetwork, chest_xray, extract, random_conv, random_subset
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.reporting.plots import BLUE, VERMILION, png, subplots

Array = np.ndarray
Degrade = Callable[[Array, float, Array], Array]  # images (n, H, W) float, level, other-class images -> (n, H, W) float


def blur(images: Array, sigma: float, _: Array) -> Array:
    """Blur each image by a Gaussian of ``sigma`` pixels."""
    return np.stack([ndimage.gaussian_filter(image, sigma) for image in images])


def noise(images: Array, sd: float, _: Array) -> Array:
    """Add white noise of ``sd`` grey levels."""
    return images + np.random.default_rng(1).normal(0, sd, images.shape)


def contrast_loss(images: Array, loss: float, _: Array) -> Array:
    """Take a share of each image's contrast away."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + (1 - loss) * (images - mean)


def mode_drop(images: Array, dropped: float, _: Array) -> Array:
    """Drop a share of the distinct images and repeat the rest, so that the count stays."""
    kept = max(2, round((1 - dropped) * len(images)))
    return images[np.arange(len(images)) % kept]


def elastic(images: Array, amplitude: float, _: Array) -> Array:
    """Displace pixels smoothly at random; SD in pixels at 64 px, correlation length a twelfth of the side."""
    rng, (n, height, width) = np.random.default_rng(2), images.shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    out = np.empty(images.shape)
    for i in range(n):
        fields = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, height / 12, height / 12))
        fields *= amplitude * height / 64 / fields.std()
        out[i] = ndimage.map_coordinates(images[i], [rows + fields[0], columns + fields[1]], order=1, mode="nearest")
    return out


def other_class(images: Array, share: float, others: Array) -> Array:
    """Replace a share of the images by images of the other class."""
    mixed, k = images.copy(), round(share * len(images))
    mixed[:k] = others[:k]
    return mixed


@dataclass(frozen=True)
class Degradation:
    """One way to make images worse, level by level; the first level changes nothing."""

    label: str  # what the levels are
    levels: tuple[float, ...]
    degrade: Degrade


@dataclass(frozen=True)
class Response:
    """Distances at each level of a degradation; the first value is real against real."""

    frechet: list[float]
    kid: list[float]


DEGRADATIONS = {
    "blur": Degradation("Gaussian blur, SD in pixels", (0, 0.5, 0.75, 1, 1.5, 2), blur),
    "noise": Degradation("white noise, SD in grey levels", (0, 4, 8, 16, 24, 32), noise),
    "contrast": Degradation("contrast loss, share", (0, 0.1, 0.2, 0.3, 0.4, 0.5), contrast_loss),
    "mode dropping": Degradation("distinct images dropped, share", (0, 0.5, 0.75, 0.875, 0.94, 0.97), mode_drop),
    "elastic": Degradation("elastic distortion, SD in pixels", (0, 0.5, 1, 1.5, 2, 3), elastic),
    "other class": Degradation("pneumonia mixed in, share", (0, 0.1, 0.25, 0.5, 0.75, 1), other_class),
}


def responses(network: FeatureNetwork, data: Dataset, limit: int | None = None, seed: int = 0) -> dict[str, Response]:
    """Return the Fréchet and kernel distances of every degradation, with at most ``limit`` images a side."""
    device = resolve_device("cpu")
    positions = data.indices("train", 0)
    halves = patient_halves([data.groups[i] for i in positions])
    n = min(*map(len, halves), limit or len(positions))
    # drawn, since the first by name would come from other sources than the rest
    first, second = (
        half[random_subset(len(half), n, seed, "ruler", name)]
        for half, name in zip(halves, ("reference", "degraded"), strict=True)
    )
    reference = extract(network, data.images[positions[first]], device, "reference")
    images = data.images[positions[second]].astype(float)
    chosen = data.indices("train", 1)[random_subset(len(data.indices("train", 1)), n, seed, "ruler")]
    others = data.images[chosen].astype(float)
    measured = {}
    for name, degradation in DEGRADATIONS.items():
        measured[name] = response = Response([], [])
        for level in degradation.levels:
            worse = np.clip(np.rint(degradation.degrade(images, level, others)), 0, 255).astype(np.uint8)
            features = extract(network, worse, device, f"{name} {level:g}")
            response.frechet.append(frechet_distance(reference, features))
            response.kid.append(kernel_distance(reference, features, 50, min(100, n // 2), seed).mean)
    return measured


def facts(network: FeatureNetwork, data: Dataset) -> dict[str, float]:
    """Return what the features hold, on validation images, which the network was not trained on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    device = resolve_device("cpu")
    x = {f: extract(network, data.images[data.indices(f)], device, f) for f in ("train", "val")}
    y = {f: data.labels[data.indices(f)] for f in ("train", "val")}
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(x["train"], y["train"])
    normal = x["val"][y["val"] == 0]
    share = np.linalg.eigvalsh(np.cov(normal.T)).clip(0)
    share /= share.sum()
    seen, n = x["train"][y["train"] == 0], len(normal)
    rng = np.random.default_rng(0)
    draws = [rng.permutation(len(seen)) for _ in range(10)]
    return {
        "class AUROC of a linear probe, validation": float(roc_auc_score(y["val"], probe.decision_function(x["val"]))),
        "effective dimensions within NORMAL (exp of the spectrum's entropy)": float(
            np.exp(-(share * np.log(share + 1e-12)).sum())
        ),
        "mean SD of a feature within NORMAL": float(normal.std(0).mean()),
        f"Fréchet, seen against never seen, n = {n}": float(
            np.mean([frechet_distance(seen[d[:n]], normal) for d in draws])
        ),
        f"Fréchet, seen against seen, n = {n}": float(
            np.mean([frechet_distance(seen[d[:n]], seen[d[n : 2 * n]]) for d in draws])
        ),
    }


def draw(measured: dict[str, Response], out: Path) -> None:
    """Draw both distances against the level of each degradation."""
    figure, axes = subplots(2, 3, 10, 5.6)
    for axis, (name, response) in zip(axes.flat, measured.items(), strict=True):
        levels = DEGRADATIONS[name].levels
        axis.plot(levels, response.frechet, "o-", color=BLUE)
        axis.axhline(response.frechet[0], color=BLUE, lw=0.8, ls=":")
        axis.set(xlabel=DEGRADATIONS[name].label, title=name, ylim=(0, None))
        axis.set_ylabel("Fréchet distance", color=BLUE)
        twin = axis.twinx()
        twin.plot(levels, response.kid, "s--", color=VERMILION, ms=4)
        twin.set_ylabel("KID", color=VERMILION)
        axis.spines["top"].set_visible(False)
        twin.spines["top"].set_visible(False)
    out.write_bytes(png(figure))


def main() -> None:
    """Print the facts and the distances, and draw the distances if there is an ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--network", choices=("chest", "random"), default="chest")
    args = parser.parse_args()
    limit_threads()
    data = load_dataset(DataConfig(path=data_path(os.environ.get("BALANCER_DATA"))))
    network = {"chest": chest_xray, "random": random_conv}[args.network](resolve_device("cpu"))
    for fact, value in facts(network, data).items():
        print(f"{value:8.3f}  {fact}")
    measured = responses(network, data)
    for name, response in measured.items():
        print(f"{name}\n  level   {' '.join(f'{v:8g}' for v in DEGRADATIONS[name].levels)}")
        print(f"  Fréchet {' '.join(f'{v:8.2f}' for v in response.frechet)}")
        print(f"  KID     {' '.join(f'{v:8.4f}' for v in response.kid)}")
    if args.out:
        draw(measured, args.out)


if __name__ == "__main__":
    main()
