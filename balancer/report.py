"""The report on a set of synthetic images: distances with their counts and floors, in plain words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from balancer.config import PRESETS, SynthesizeConfig, differences, flatten
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.data.split import carve_validation
from balancer.metrics.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    extract,
    inception,
    inception_weights,
    random_conv,
    random_subset,
)
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.metrics.manifold import NEIGHBOURS, manifold_overlap

Array = np.ndarray
NO_FID = (
    "FID was not computed: the Inception weights are not in the torch hub cache and could not be downloaded. "
    f"To get it, put {INCEPTION_FILE} (from the torch-fidelity releases) into the cache's checkpoints folder, or give "
    "--inception-weights FILE. The distances here are on another, named network and are not FIDs."
)
FID_OFF = "FID was not computed: --inception-weights is off. The distances here are on another, named network and are not FIDs."


def quality_report(
    config: SynthesizeConfig, data: Dataset, label: int, fake: Array, device: torch.device
) -> dict[str, Any]:
    """Distances of ``fake`` (n, H, W) uint8 to two real sets of the class, on every network that can be had.

    Against the *training fold*, its halves with disjoint patients give the floor: the first half is the
    reference, the second takes the place of the synthetic images. Against *validation*, which the GAN never saw, the
    floor is as many training images. Counts are equal on both sides and in the floor, because both distances,
    the Fréchet distance above all, depend on them (Chong & Forsyth 2020, arXiv:1911.07023).
    """
    weights = inception_weights(config.inception)
    networks = [random_conv(device)] + ([inception(weights, device)] if weights else [])
    notes = [] if weights else [FID_OFF if config.inception == "off" else NO_FID]
    rows: list[dict[str, Any]] = []
    for network in networks:
        features = _Features(network, data, label, fake, device)
        first, second = _halves(data, label, config.seed)
        rows += _rows(config, network, "training fold (half the patients)", features, first, second, notes)
        val, train = data.indices("val", label), data.indices("train", label)
        rows += _rows(config, network, "validation", features, val, train, notes)
    return {"distances": rows, "notes": notes}


class _Features:
    """Features of the class's real images (by position in the data set) and of the synthetic ones, each computed once."""

    def __init__(self, network: FeatureNetwork, data: Dataset, label: int, fake: Array, device: torch.device) -> None:
        positions = np.concatenate([data.indices("train", label), data.indices("val", label)])
        features = extract(network, data.images[positions], device, "real", keep=True)
        self._row = {int(p): i for i, p in enumerate(positions)}
        self._real = features
        self.fake = extract(network, fake, device, "synthetic")

    def real(self, positions: Array) -> Array:
        return self._real[[self._row[int(p)] for p in positions]]


def _halves(data: Dataset, label: int, seed: int) -> tuple[Array, Array]:
    """The training fold's images of a class in two halves that share no patient."""
    positions = data.indices("train", label)
    groups = [data.groups[i] for i in positions]
    first = carve_validation([label] * len(positions), groups, 0.5, seed)
    return positions[first], positions[~first]


def _rows(
    config: SynthesizeConfig,
    network: FeatureNetwork,
    reference: str,
    features: _Features,
    real: Array,
    other: Array,
    notes: list[str],
) -> list[dict[str, Any]]:
    """One row: synthetic against ``real``, and ``other`` real images against ``real`` as the floor."""
    n = min(len(real), len(other), len(features.fake))
    if n < 2:
        notes.append(
            f"No distance to {reference}: it needs 2 images a side; there are {len(real)} real, {len(other)} for the floor "
            f"and {len(features.fake)} synthetic."
        )
        return []
    pick = [
        random_subset(len(x), n, config.seed, reference, side)
        for x, side in ((real, "real"), (other, "floor"), (features.fake, "fake"))
    ]
    ref, floor, fake = features.real(real[pick[0]]), features.real(other[pick[1]]), features.fake[pick[2]]
    size = min(config.kid_subset_size, max(2, n // 2))  # whole-set subsets would all be the same and show an SD of 0
    if n <= network.dim:
        notes.append(
            f"{network.name} against {reference}: {n} images a side for {network.dim} features; the Fréchet distance is biased upwards, "
            "compare it only with its floor or with figures at the same n. KID is unbiased."
        )
    kid, kid_sd = kernel_distance(ref, fake, config.kid_subsets, size, config.seed)
    kid_floor, kid_floor_sd = kernel_distance(ref, floor, config.kid_subsets, size, config.seed)
    row = {
        "features": network.name,
        "frechet_name": "FID" if network.name == "inception-2048" else "Fréchet distance",
        "reference": reference,
        "n_real": n,
        "n_fake": n,
        "frechet": frechet_distance(ref, fake),
        "frechet_floor": frechet_distance(ref, floor),
        "kid": kid,
        "kid_sd": kid_sd,
        "kid_floor": kid_floor,
        "kid_floor_sd": kid_floor_sd,
        "kid_subsets": config.kid_subsets,
        "kid_subset_size": size,
        "overlap": asdict(manifold_overlap(ref, fake)) if n > NEIGHBOURS else None,
        "overlap_floor": asdict(manifold_overlap(ref, floor)) if n > NEIGHBOURS else None,
    }
    return [row]


def render_markdown(report: dict[str, Any]) -> str:
    """report.md."""
    data, quality, gan = report["data"], report["quality"], report["gan_config"]
    changed = differences(
        PRESETS[gan["preset"]], {k: v for k, v in flatten(gan).items() if k in flatten(PRESETS[gan["preset"]])}
    )
    preset = f"{gan['preset']} preset" + (
        f" (with other {', '.join(c.split(' ')[0] for c in changed)})" if changed else ""
    )
    weights = f"averaged weights (EMA {gan['ema_decay']:g})" if gan["ema_decay"] else "the last weights"
    counts = data["counts"]["train"]
    lines = [
        f"# {report['n']} synthetic {report['class']} images",
        "",
        *(f"> **{note}**\n" for note in data["notes"]),
        f"Generator: {preset}, {data['image_size']} px, step {report['gan_step']}, "
        f"run `{Path(report['gan_run']).name}`, {weights}. Seed {report['seed']}; image *i* is the same whatever the number of images.",
        f"Trained on the {counts[report['class']]} {report['class']} images of the training fold "
        f"({', '.join(f'{c} {counts[c]}' for c in CLASSES)}; split `{data['split_hash']}`). No validation or test image was seen.",
        "",
        "![synthetic beside real](grid.png)",
        "",
        "## Distances",
        "",
        "Lower is closer; both sides of every comparison hold the same number of images. The floor is the same distance between two "
        "real sets of that size, split by patient as far as patients are known. Against the training fold, a generator that copies what "
        "it was trained on can fall below the floor: there, below is a warning and not a success. Validation it never saw.",
        "",
        "| features | reference | n_real | n_fake | Fréchet | floor | KID ± SD over subsets | floor |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in quality["distances"]:
        name = f"{r['features']} (FID)" if r["frechet_name"] == "FID" else r["features"]
        lines.append(
            f"| {name} | {r['reference']} | {r['n_real']} | {r['n_fake']} | {r['frechet']:.2f} | {r['frechet_floor']:.2f} "
            f"| {r['kid']:.4f} ± {r['kid_sd']:.4f} | {r['kid_floor']:.4f} |"
        )
    first = quality["distances"][0] if quality["distances"] else None
    if first:
        # a small validation fold makes for smaller subsets there; dict.fromkeys: each size once, in the table's order
        sizes = " and ".join(dict.fromkeys(str(r["kid_subset_size"]) for r in quality["distances"]))
        lines += [
            "",
            f"KID: {first['kid_subsets']} subsets of {sizes} images, cubic kernel. "
            "`random-conv-128` is a fixed convolutional network with seeded random weights (discussed by Naeem et al. 2020): "
            "its figures order sets of images on this data and are not FIDs.",
        ]
    lines += _overlap_lines(quality["distances"])
    lines += ["", *(f"- {note}" for note in quality["notes"])]
    lines += [
        "",
        "Distances say nothing of copied patients or of a tell-tale artefact; whether the images help a classifier "
        "is for `classifier ablate` to say.",
        "",
    ]
    return "\n".join(lines)


def _overlap_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table of precision, recall, density and coverage, each with what real images reach in brackets."""
    shown = [r for r in rows if r["overlap"]]
    if not shown:
        return []
    names = list(shown[0]["overlap"])
    lines = [
        "",
        "## Overlap",
        "",
        f"In brackets, what as many other real images reach. Precision and density ask whether synthetic images look real, recall and "
        f"coverage whether they show the variety of the real ones (k = {NEIGHBOURS} nearest neighbours).",
        "",
        f"| features | reference | n_real | n_fake | {' | '.join(names)} |",
        "| --- | --- | ---: | ---: |" + " ---: |" * len(names),
    ]
    for r in shown:
        cells = [f"{r['overlap'][name]:.2f} ({r['overlap_floor'][name]:.2f})" for name in names]
        lines.append(f"| {r['features']} | {r['reference']} | {r['n_real']} | {r['n_fake']} | {' | '.join(cells)} |")
    return lines
