"""GAN recipes side by side: the paper's DCGAN, then one ingredient at a time, at equal steps, batch and widths.

Every run is an ordinary `balancer gan-train` (finished ones are not run again), measured afterwards on as many generated images as
there are validation images of the class, which neither the generator nor the choice of a snapshot has seen.

    BALANCER_DATA=DIR python benchmarks/recipes.py --steps 2500 --seeds 0,1 --out runs/recipes [--only dcgan,r1] [--set KEY=VALUE] [--table]
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from balancer.cli import main as balancer
from balancer.config import GanTrainConfig, SynthesizeConfig, data_path
from balancer.data.dataset import load_dataset
from balancer.data.split import patient_halves
from balancer.device import limit_threads, resolve_device
from balancer.metrics.features import chest_xray, extract, random_conv, random_subset
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.metrics.manifold import manifold_overlap
from balancer.metrics.two_sample import logistic_two_sample
from balancer.run import read_jsonl
from balancer.synthesis import images_of, open_source

PAPER = ["preset=dcgan"]
EMA = [*PAPER, "ema_decay=0.99"]
LONGER = [*PAPER, "ema_decay=0.995"]
TRANSLATION = ["diffaugment=translation"]
R1 = [*LONGER, "discriminator_norm=none", "r1_weight=0.1", "penalty_every=4"]
ALL = ["diffaugment=translation,cutout,brightness,contrast"]
# folder -> what the table says, settings
RECIPES: dict[str, tuple[str, list[str]]] = {
    "dcgan": ("DCGAN, as in the paper", PAPER),
    "ema": ("+ EMA .99", EMA),
    "ema-mbsd": ("+ EMA .99, minibatch SD", [*EMA, "minibatch_stddev=true"]),
    "ema-t": ("+ EMA .99, translation", [*EMA, *TRANSLATION]),
    "ema998-t": ("+ EMA .998, translation", [*PAPER, "ema_decay=0.998", *TRANSLATION]),
    "ema995-t-mbsd": ("+ EMA .995, translation, minibatch SD", [*LONGER, *TRANSLATION, "minibatch_stddev=true"]),
    "ema995-tc": ("+ EMA .995, translation, cutout", [*LONGER, "diffaugment=translation,cutout"]),
    "ema-tbc": ("+ EMA .99, translation, brightness, contrast", [*EMA, "diffaugment=translation,brightness,contrast"]),
    "ema-ada": ("+ EMA .99, ADA of all four", [*EMA, *ALL, "ada_target=0.6", "ada_images=40000"]),
    "ema-t-lecam": ("+ EMA .99, translation, LeCam", [*EMA, *TRANSLATION, "lecam_weight=0.1"]),
    "r1": ("R1 in place of BatchNorm, EMA .995", R1),
    "r1-t": ("R1, EMA .995, translation", [*R1, *TRANSLATION]),
    "r1-t-lr": (
        "R1, EMA .995, translation, both rates 5e-4",
        [*R1, *TRANSLATION, "lr_generator=5e-4", "lr_discriminator=5e-4"],
    ),
    "r1-t-ttur": (
        "R1, EMA .995, translation, minibatch SD, D's rate 6e-4",
        [*R1, *TRANSLATION, "minibatch_stddev=true", "lr_discriminator=6e-4"],
    ),
    "relativistic": (
        "R1 + R2, relativistic, EMA .995, translation, both rates 5e-4",
        [*R1, *TRANSLATION, "r2_weight=0.1", "loss=relativistic", "lr_generator=5e-4", "lr_discriminator=5e-4"],
    ),
    "spectral": (
        "spectral norm, hinge, EMA .995, D's rate 4e-4",
        [*LONGER, "discriminator_norm=spectral", "loss=hinge", "lr_discriminator=4e-4"],
    ),
    "upsample": ("+ EMA .99, translation, upsample + convolution", [*EMA, *TRANSLATION, "architecture=upsample"]),
    "residual": ("residual, R1, EMA .995, translation", [*R1, *TRANSLATION, "architecture=residual"]),
    "wgan-gp": ("WGAN-GP", ["preset=wgan_gp"]),
}


def folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}"


def train(out: Path, name: str, seed: int, steps: int, more: list[str]) -> None:
    run = folder(out, name, seed)
    if (run / "done").exists():
        return
    arguments = ["gan-train", "--seed", str(seed), "--steps", str(steps), "--out", str(run), "--force"]
    for setting in [*more, *RECIPES[name][1]]:
        arguments += ["--set", setting]
    balancer(arguments, standalone_mode=False)


def measure(run: Path) -> dict[str, float]:
    """Figures on validation images of the class (n = n), seconds of training and the snapshot used."""
    device = resolve_device("cpu")
    source = open_source(SynthesizeConfig(gan_run=str(run), data=_data(), inception="off"), device)
    data, label = source.data, source.label
    val, train = data.indices("val", label), data.indices("train", label)
    n = len(val)
    fake_images = np.concatenate(list(images_of(source, 0, n, device)))
    half = train[patient_halves([data.groups[i] for i in train], 0)[0]]
    half_images = np.concatenate(list(images_of(source, 0, len(half), device)))
    found: dict[str, float] = {"step": source.step}
    for key, network in (("", chest_xray(device)), (" (random-conv)", random_conv(device))):
        real = extract(network, data.images[val], device, "validation")
        fake = extract(network, fake_images, device, "synthetic")
        found["FD" + key] = frechet_distance(real, fake)
        found["KID" + key] = kernel_distance(real, fake, 1, n, 0)[0]
        if not key:
            overlap = manifold_overlap(real, fake)
            found |= {"precision": overlap.precision, "recall": overlap.recall, "coverage": overlap.coverage}
            found["AUROC"] = logistic_two_sample(real, fake, [data.groups[i] for i in val], 0).auroc
            fold = extract(network, data.images[half], device, "training fold")
            more = extract(network, half_images, device, "synthetic")
            found["FD train"], found["KID train"] = (
                frechet_distance(fold, more),
                kernel_distance(fold, more, 1, len(half), 0)[0],
            )
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "loss_D" in row]
    found["images/s"] = statistics.median(row["images_per_s"] for row in rows)
    return found


def floor() -> dict[str, float]:
    """The same figures of real training images against validation."""
    device, data = resolve_device("cpu"), load_dataset(_data())
    label = data.minority_class
    val, train = data.indices("val", label), data.indices("train", label)
    chosen = train[random_subset(len(train), len(val), 0, "floor")]
    halves = [train[half] for half in patient_halves([data.groups[i] for i in train], 0)]
    n = min(map(len, halves))
    found: dict[str, float] = {}
    for key, network in (("", chest_xray(device)), (" (random-conv)", random_conv(device))):
        real, other = (extract(network, data.images[i], device, "real") for i in (val, chosen))
        found["FD" + key], found["KID" + key] = (
            frechet_distance(real, other),
            kernel_distance(real, other, 1, len(val), 0)[0],
        )
        if not key:
            overlap = manifold_overlap(real, other)
            found |= {"precision": overlap.precision, "recall": overlap.recall, "coverage": overlap.coverage}
            found["AUROC"] = logistic_two_sample(real, other, [data.groups[i] for i in val], 0).auroc
            a, b = (extract(network, data.images[half[:n]], device, "real") for half in halves)
            found["FD train"], found["KID train"] = frechet_distance(a, b), kernel_distance(a, b, 1, n, 0)[0]
    return found


def _data() -> Any:
    config = GanTrainConfig()
    return config.data.model_copy(update={"path": data_path(os.environ.get("BALANCER_DATA"))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--only", default=",".join(RECIPES), help="folders, parted by commas")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    parser.add_argument("--table", action="store_true", help="train nothing, print what there is")
    asked = parser.parse_args()
    limit_threads()
    names = [name.strip() for name in asked.only.split(",")]
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    if not asked.table:
        for seed in seeds:
            for name in names:
                train(asked.out, name, seed, asked.steps, asked.set)
    columns = [
        "FD",
        "KID",
        "precision",
        "recall",
        "coverage",
        "AUROC",
        "FD train",
        "KID train",
        "FD (random-conv)",
        "KID (random-conv)",
        "step",
        "images/s",
    ]
    print(f"| recipe | seeds | {' | '.join(columns)} |\n| --- | ---: |{' ---: |' * len(columns)}")
    for name in ["real", *names]:
        runs = [folder(asked.out, name, seed) for seed in seeds]
        found = [floor()] if name == "real" else [measure(run) for run in runs if (run / "done").exists()]
        cells = [" ".join(f"{f[c]:.4g}" for f in found) if c in found[0] else "" for c in columns] if found else []
        label = "real images" if name == "real" else RECIPES[name][0]
        print(f"| {label} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
