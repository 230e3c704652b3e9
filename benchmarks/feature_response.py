"""Measure what the shipped chest X-ray features respond to: real images against ever worse copies of other real images.

Half the NORMAL patients of the training fold are the reference. The other half is degraded more and more. Both
distances have to rise with every step of every degradation. The script also prints what the features hold, and whether
images that the network was trained on are measured like images that it never saw.

    BALANCER_DATA=DIR python benchmarks/feature_response.py [--out docs/images/feature_response.png]
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from balancer.core.config import data_path
from balancer.core.device import limit_threads, resolve_device
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.split import patient_halves
from balancer.metrics import feature_response as damage
from balancer.metrics.feature_response import Degradation, Response
from balancer.metrics.features import FeatureNetwork, chest_xray, extract, random_conv, random_subset
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.metrics.own_features import RECIPE, own_network
from balancer.reporting.plots import BLUE, VERMILION, png, subplots

Array = np.ndarray
LEVELS = {  # finer than those that the network of a data set is measured on
    "blur": (0, 0.5, 0.75, 1, 1.5, 2),
    "noise": (0, 4, 8, 16, 24, 32),
    "contrast": (0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "mode dropping": (0, 0.5, 0.75, 0.875, 0.94, 0.97),
    "elastic": (0, 0.5, 1, 1.5, 2, 3),
}
DAMAGES = {name: replace(damage.DEGRADATIONS[name], levels=levels) for name, levels in LEVELS.items()}
NETWORKS = {"chest": chest_xray, "random": random_conv}


def degradations(others: Array) -> dict[str, Degradation]:
    """Return every degradation by name; the last one mixes images of the other class (n, H, W) in."""

    def other_class(images: Array, share: float) -> Array:
        mixed, k = images.copy(), round(share * len(images))
        mixed[:k] = others[:k]
        return mixed

    mixing = Degradation("another class mixed in, share", (0, 0.1, 0.25, 0.5, 0.75, 1), other_class)
    return {**DAMAGES, "other class": mixing}


def responses(network: FeatureNetwork, data: Dataset, limit: int | None = None, seed: int = 0) -> list[Response]:
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
    images = data.images[positions[second]]
    chosen = data.indices("train", 1)[random_subset(len(data.indices("train", 1)), n, seed, "ruler")]
    measured = []
    for name, degradation in degradations(data.images[chosen].astype(float)).items():
        features = [
            extract(network, damage.damaged(degradation, images, level), device, f"{name} {level:g}")
            for level in degradation.levels
        ]
        frechet = tuple(frechet_distance(reference, f) for f in features)
        kid = tuple(kernel_distance(reference, f, 50, min(100, n // 2), seed).mean for f in features)
        measured.append(Response(name, degradation.levels, frechet, kid))
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


def draw(measured: list[Response], out: Path) -> None:
    """Draw both distances against the level of each degradation."""
    figure, axes = subplots(2, 3, 10, 5.6)
    labels = {name: degradation.label for name, degradation in degradations(np.empty(0)).items()}
    for axis, response in zip(axes.flat, measured, strict=True):
        axis.plot(response.levels, response.frechet, "o-", color=BLUE)
        axis.axhline(response.frechet[0], color=BLUE, lw=0.8, ls=":")
        axis.set(xlabel=labels[response.degradation], title=response.degradation, ylim=(0, None))
        axis.set_ylabel("Fréchet distance", color=BLUE)
        twin = axis.twinx()
        twin.plot(response.levels, response.kid, "s--", color=VERMILION, ms=4)
        twin.set_ylabel("KID", color=VERMILION)
        axis.spines["top"].set_visible(False)
        twin.spines["top"].set_visible(False)
    out.write_bytes(png(figure))


def main() -> None:
    """Print the facts and the distances, and draw the distances if there is an ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--network", choices=("chest", "random", "own"), default="chest")
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help="of the data's own network")
    parser.add_argument("--limit", type=int, help="images a side")
    args = parser.parse_args()
    limit_threads()
    data, device = load_dataset(DataConfig(path=data_path(os.environ.get("BALANCER_DATA")))), resolve_device("cpu")
    if args.network == "own":
        own, network = own_network(data, device, replace(RECIPE, steps=args.steps))
        print(own.describe(), f"{own.seconds:.0f} s")
        for response in own.response:
            show(response)
    else:
        network = NETWORKS[args.network](device)
    for fact, value in facts(network, data).items():
        print(f"{value:8.3f}  {fact}")
    measured = responses(network, data, args.limit)
    for response in measured:
        show(response)
    if args.out:
        draw(measured, args.out)


def show(response: Response) -> None:
    """Print the distances at each level."""
    print(f"{response.degradation}\n  level   {' '.join(f'{v:8g}' for v in response.levels)}")
    print(f"  Fréchet {' '.join(f'{v:8.2f}' for v in response.frechet)}")
    print(f"  KID     {' '.join(f'{v:8.4f}' for v in response.kid)}")


if __name__ == "__main__":
    main()
