"""What the shipped chest X-ray features respond to: distances of real images to ever worse copies of other real images.

Half the training fold's NORMAL patients are the reference; the other half is degraded more and more. Both distances have to rise with
every step of every degradation. Also printed: what the features hold (class, effective dimensions within NORMAL) and whether images
that the network was trained on are measured like those that it never saw.

    BALANCER_DATA=DIR python -m balancer.metrics.feature_response [--out docs/images/feature_response.png]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
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
    return np.stack([ndimage.gaussian_filter(image, sigma) for image in images])


def noise(images: Array, sd: float, _: Array) -> Array:
    return images + np.random.default_rng(1).normal(0, sd, images.shape)


def contrast_loss(images: Array, loss: float, _: Array) -> Array:
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + (1 - loss) * (images - mean)


def mode_drop(images: Array, dropped: float, _: Array) -> Array:
    """Only a share of the distinct images is left; each appears the more often."""
    kept = max(2, round((1 - dropped) * len(images)))
    return images[np.arange(len(images)) % kept]


def elastic(images: Array, amplitude: float, _: Array) -> Array:
    """Smooth random displacements (SD in pixels at 64 px, correlation length a twelfth of the side)."""
    rng, (n, height, width) = np.random.default_rng(2), images.shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    out = np.empty(images.shape)
    for i in range(n):
        fields = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, height / 12, height / 12))
        fields *= amplitude * height / 64 / fields.std()
        out[i] = ndimage.map_coordinates(images[i], [rows + fields[0], columns + fields[1]], order=1, mode="nearest")
    return out


def other_class(images: Array, share: float, others: Array) -> Array:
    mixed, k = images.copy(), round(share * len(images))
    mixed[:k] = others[:k]
    return mixed


DEGRADATIONS: dict[str, tuple[str, tuple[float, ...], Degrade]] = {
    "blur": ("Gaussian blur, SD in pixels", (0, 0.5, 0.75, 1, 1.5, 2), blur),
    "noise": ("white noise, SD in grey levels", (0, 4, 8, 16, 24, 32), noise),
    "contrast": ("contrast loss, share", (0, 0.1, 0.2, 0.3, 0.4, 0.5), contrast_loss),
    "mode dropping": ("distinct images dropped, share", (0, 0.5, 0.75, 0.875, 0.94, 0.97), mode_drop),
    "elastic": ("elastic distortion, SD in pixels", (0, 0.5, 1, 1.5, 2, 3), elastic),
    "other class": ("pneumonia mixed in, share", (0, 0.1, 0.25, 0.5, 0.75, 1), other_class),
}


def curves(
    network: FeatureNetwork, data: Dataset, limit: int | None = None, seed: int = 0
) -> dict[str, tuple[list[float], list[float]]]:
    """Fréchet and kernel distances per degradation, level by level; the first level is the floor.

    At most ``limit`` images a side.
    """
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
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, (_, levels, degrade) in DEGRADATIONS.items():
        found[name] = ([], [])
        for level in levels:
            worse = np.clip(np.rint(degrade(images, level, others)), 0, 255).astype(np.uint8)
            features = extract(network, worse, device, f"{name} {level:g}")
            found[name][0].append(frechet_distance(reference, features))
            found[name][1].append(kernel_distance(reference, features, 50, min(100, n // 2), seed).mean)
    return found


def facts(network: FeatureNetwork, data: Dataset) -> dict[str, float]:
    """What the features hold, on validation images, which they were not trained on."""
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


def draw(found: dict[str, tuple[list[float], list[float]]], out: Path) -> None:
    figure, axes = subplots(2, 3, 10, 5.6)
    for axis, (name, (frechet, kid)) in zip(axes.flat, found.items(), strict=True):
        label, levels, _ = DEGRADATIONS[name]
        axis.plot(levels, frechet, "o-", color=BLUE)
        axis.axhline(frechet[0], color=BLUE, lw=0.8, ls=":")
        axis.set(xlabel=label, title=name, ylim=(0, None))
        axis.set_ylabel("Fréchet distance", color=BLUE)
        twin = axis.twinx()
        twin.plot(levels, kid, "s--", color=VERMILION, ms=4)
        twin.set_ylabel("KID", color=VERMILION)
        axis.spines["top"].set_visible(False)
        twin.spines["top"].set_visible(False)
    out.write_bytes(png(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--network", choices=("chest", "random"), default="chest")
    args = parser.parse_args()
    limit_threads()
    data = load_dataset(DataConfig(path=data_path(os.environ.get("BALANCER_DATA"))))
    network = {"chest": chest_xray, "random": random_conv}[args.network](resolve_device("cpu"))
    for fact, value in facts(network, data).items():
        print(f"{value:8.3f}  {fact}")
    found = curves(network, data)
    for name, (frechet, kid) in found.items():
        levels = DEGRADATIONS[name][1]
        print(f"{name}\n  level   {' '.join(f'{v:8g}' for v in levels)}")
        print(f"  Fréchet {' '.join(f'{v:8.2f}' for v in frechet)}\n  KID     {' '.join(f'{v:8.4f}' for v in kid)}")
    if args.out:
        draw(found, args.out)


if __name__ == "__main__":
    main()
