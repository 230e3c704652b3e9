"""Show whether a classifier learns the file format where real images are JPEG at the very working size.

The real images are stored as JPEG (quality 75) of 64 x 64 px. Half of the NORMAL patients of train and val are taken
away. Their images, stored as PNG, stand for those of a perfect generator. ``classifier`` codes them as the real files
are; the benchmark trains with and without this coding. Each classifier then reads the pneumonia images of test twice,
as JPEG and as PNG. A classifier that has learnt "PNG means NORMAL" calls more of them NORMAL as PNG.

    BALANCER_DATA=DIR python benchmarks/file_format.py [--steps 250] [--seeds 2]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from balancer.core.config import resolve
from balancer.core.device import limit_threads
from balancer.core.settings import DataConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.manifest import MANIFEST, MANIFEST_COLUMNS
from balancer.metrics.classification import weighted_auroc
from balancer.metrics.two_sample import TwoSample, pixel_two_sample
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.synthetic import SyntheticSet, load_synthetic
from classifier.training.training_set import training_set

Array = np.ndarray
SIZE, QUALITY = 64, 75
CPU = torch.device("cpu")
COMPARED = 200  # images a side of the two-sample test


def main() -> None:
    """Print one row per kind of added images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("BALANCER_DATA"), required="BALANCER_DATA" not in os.environ)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=2, help="trial seeds")
    args = parser.parse_args()
    limit_threads()
    source = load_dataset(DataConfig(path=args.data, image_size=SIZE))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["BALANCER_CACHE"] = str(place / "cache")
        taken = write_real(place / "real", source)
        data = load_dataset(DataConfig(path=str(place / "real"), image_size=SIZE))
        images = source.images[taken]
        write_synthetic(place / "png", images, data)
        as_jpeg = load_synthetic(place / "png", data, DataConfig(image_size=SIZE), "all")
        as_png = replace(as_jpeg, images=images, coding="")
        pneumonia = data.indices("test", 1 - data.minority_class)
        stored = {file_name(source, i): i for i in range(len(source.records))}
        unmarked = source.images[[stored[data.records[i].name] for i in pneumonia]]
        print(f"real: {data.deficit} NORMAL too few; added: {len(images)} images that no trial saw\n")
        print("| added images | told from real NORMAL by pixels | test AUROC | as JPEG | as PNG |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for words, regime, synthetic in (
            ("none", "baseline", None),
            ("PNG, as they are", "gan", as_png),
            ("PNG, coded as the real files", "gan", as_jpeg),
        ):
            test = two_sample(data, synthetic) if synthetic else None
            cell = f"{test.auroc:.3f} [{test.low:.3f}, {test.high:.3f}]" if test else "–"
            trials = [trial(data, regime, synthetic, unmarked, args.steps, seed) for seed in range(args.seeds)]
            print(
                f"| {words} | {cell} | {' | '.join(mean_sd(figure) for figure in zip(*trials, strict=True))} |",
                flush=True,
            )


def file_name(source: Dataset, i: int) -> str:
    """Return the name of image ``i`` as JPEG, relative to the folder of real images."""
    record = source.records[i]
    return f"{record.split}/{source.classes[source.labels[i]]}/{Path(record.name).stem}.jpeg"


def write_real(folder: Path, source: Dataset) -> Array:
    """Store the images as JPEG but for half the NORMAL patients of train and val; return the positions of these."""
    normal = np.flatnonzero((source.labels == source.minority_class) & (source.folds != "test"))
    half = set(sorted({source.groups[i] for i in normal})[::2])
    taken = np.array([i for i in normal if source.groups[i] in half])
    for i in np.setdiff1d(np.arange(len(source.records)), taken):
        path = folder / file_name(source, i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images[i]).save(path, quality=QUALITY)
    return taken


def write_synthetic(folder: Path, images: Array, data: Dataset) -> None:
    """Store images (n, H, W) uint8 as PNG with a manifest, as ``balancer synthesize`` does."""
    folder.mkdir()
    rows = [",".join(MANIFEST_COLUMNS)]
    for i, image in enumerate(images):
        file = folder / f"{i:05d}.png"
        Image.fromarray(image).save(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append(f"{file.name},{i},0,{digest},{data.classes[data.minority_class]},{data.split_hash}")
    (folder / MANIFEST).write_text("\n".join(rows) + "\n")


def two_sample(data: Dataset, synthetic: SyntheticSet) -> TwoSample:
    """Return how well a small CNN on pixels tells the added images from real NORMAL images of the training fold."""
    real = data.indices("train", data.minority_class)[:COMPARED]
    added = synthetic.images[: len(real)]
    return pixel_two_sample(data.images[real], added, [data.groups[i] for i in real], CPU, seed=0, folds=2, steps=120)


def trial(
    data: Dataset, regime: str, synthetic: SyntheticSet | None, unmarked: Array, steps: int, seed: int
) -> tuple[float, float, float]:
    """Train once; return the test AUROC, and the share of test pneumonia called NORMAL as JPEG and as PNG."""
    config = resolve(TrainConfig, {"data": {"image_size": SIZE}, "steps": steps})
    val, test = data.indices("val"), data.indices("test")
    train = training_set(data, REGIMES[regime], synthetic, seed, 0)
    fitted = trainer.train(config, REGIMES[regime], seed, train, (data.images[val], data.labels[val]), CPU)
    score = trainer.predict(fitted.model, data.images[test], config, CPU)
    as_png = trainer.predict(fitted.model, unmarked, config, CPU)
    auroc = weighted_auroc(data.labels[test], score, np.ones((1, len(test))))[0]
    missed = (float((s < fitted.threshold).mean()) for s in (score[data.labels[test] == 1], as_png))
    return float(auroc), next(missed), next(missed)


def mean_sd(figures: tuple[float, ...]) -> str:
    """Return the mean and the SD over trial seeds."""
    sd = f" ± {np.std(figures, ddof=1):.3f}" if len(figures) > 1 else ""
    return f"{np.mean(figures):.3f}{sd}"


if __name__ == "__main__":
    main()
