"""Compare the kept snapshots of GANs of few images with real images of their class that the thinned fold leaves out.

A snapshot is chosen by its KID to the images that the GAN learnt from. With few images this figure falls below that of
unseen real images. The images that ``--minority`` left out are a reference that neither the training nor the choice
has seen. The features are those of ``chest-xray-128``.

    python benchmarks/left_out_kid.py STUDY/size-50/gan-0 STUDY/size-50/gan-1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from balancer.core.device import limit_threads
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.data.dataset import load_dataset
from balancer.gan.checkpoint import (
    BEST,
    CHECKPOINT,
    Checkpoint,
    finished_settings,
    load_weights,
    previous,
    read_checkpoint,
)
from balancer.gan.monitor import generate
from balancer.gan.networks import make_generator
from balancer.gan.step import sample_z
from balancer.metrics.features import FeatureNetwork, chest_xray, extract
from balancer.metrics.kernel import kernel_distance
from balancer.reporting.grids import to_uint8

IMAGES = 1024  # synthetic ones; the last file of a run is the last snapshot
FILES = (previous(Path(BEST)), Path(BEST), previous(Path(CHECKPOINT)), Path(CHECKPOINT))


def sides(config: GanTrainConfig, network: FeatureNetwork) -> list[np.ndarray]:
    """Return the features of real images of the GAN's class: learnt from, left out, and of validation."""
    whole = load_dataset(config.data.model_copy(update={"minority": None, "ratio": None}))
    thinned = load_dataset(config.data)
    label = thinned.minority_class
    kept = {thinned.records[i].name for i in thinned.indices("train", label)}
    train = whole.indices("train", label)
    in_fold = np.array([whole.records[i].name in kept for i in train])
    return [
        extract(network, whole.images[positions], torch.device("cpu"), "real", show=False)
        for positions in (train[in_fold], train[~in_fold], whole.indices("val", label))
    ]


def kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the KID over as many images of each side as the smaller has."""
    return kernel_distance(real, fake, subsets=1, subset_size=min(len(real), len(fake)), seed=0).mean


def snapshots(run: Path, config: GanTrainConfig) -> list[tuple[str, Checkpoint]]:
    """Return the kept snapshots of a run with the names of their files, each step once."""
    by_step: dict[int, tuple[str, Checkpoint]] = {}
    for file in FILES:
        if (run / file).exists():
            saved = read_checkpoint(run / file, torch.device("cpu"), config)
            by_step.setdefault(saved.step, (file.name, saved))
    return list(by_step.values())


def synthetic(saved: Checkpoint, network: FeatureNetwork) -> np.ndarray:
    """Return the features of images of a snapshot, of the same latents for every snapshot of a run."""
    G = make_generator(saved.config, saved.channels)
    load_weights(saved, "G_ema", G)
    z = sample_z(saved.config, IMAGES, generator(saved.config.seed, "left out"))
    images = np.concatenate([to_uint8(generate(G, part)) for part in z.split(128)])
    return extract(network, images, torch.device("cpu"), "synthetic", show=False)


def main() -> None:
    """Print a row for each kept snapshot of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished gan-train runs with --minority")
    args = parser.parse_args()
    limit_threads()
    network = chest_xray(torch.device("cpu"))
    print("| run | step | file | KID, learnt from | KID, left out | KID, validation |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for run in args.runs:
        config = finished_settings(run)
        real = sides(config, network)
        for file, saved in snapshots(run, config):
            fake = synthetic(saved, network)
            cells = " | ".join("" if len(of) < 2 else f"{kid(of, fake):.3f}" for of in real)
            print(f"| {run.parent.name}/{run.name} | {saved.step} | {file} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
