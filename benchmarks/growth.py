"""How time and memory grow with the number of images: reading, decoding, cache, split, audit, steps, report.

Makes sets of noise, as an archive, a folder for each class or a table of PNG files, and works on each in fresh
processes, one for each part. Memory is the largest that the process held itself (RssAnon of Linux), sampled: the pages
of memory maps belong to the operating system, which takes them back. The rise is what was held beyond the imports. Time
is that of the processor, user and system, in all threads.

    python benchmarks/growth.py --images 1000 10000 100000 500000 --side 28 --layouts npz classes --out growth.json
    python benchmarks/growth.py --draw growth.json growth.png
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
PER_FOLDER = 10_000  # files in a folder of a table
STEPS = 50  # of a training
SMALLEST = 32  # px that a DCGAN takes: it halves its images down to 4 px
SYNTHETIC = 1000  # images that the report compares with all real ones of their class
Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What one part of the work took on one set."""

    images: int
    side: int
    layout: str
    part: str
    seconds: float  # of the processor
    peak: float  # MB
    rise: float  # MB beyond the imports


# Sets


def noise(n: int, side: int) -> np.ndarray:
    """Return noise (n, side, side) uint8, no two images alike."""
    return np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)


def as_npz(pixels: np.ndarray, folder: Path) -> Path:
    """Write an archive of MedMNIST's layout; return it."""
    arrays: dict[str, Any] = {}
    first = 0
    for split, share in SHARES.items():
        n = round(len(pixels) * share)
        arrays[f"{split}_images"] = pixels[first : first + n]
        arrays[f"{split}_labels"] = (np.arange(n) % 4 == 0).astype(np.uint8)[:, None]
        first += n
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def as_classes(pixels: np.ndarray, folder: Path) -> Path:
    """Write PNG files of patients with two images each, in a folder for each class; return the folder above."""
    for i, image in enumerate(pixels):
        place = folder / "data" / ("ill" if i // 2 % 3 == 0 else "well")
        if i < 8:
            place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i // 2:08d}_{i % 2:03d}.png", compress_level=0)
    return folder / "data"


def as_table(pixels: np.ndarray, folder: Path) -> Path:
    """Write PNG files and a table of them, with patients and a split; return the table."""
    splits = [split for split, share in SHARES.items() for _ in range(round(10 * share))]
    with (folder / "table.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "patient", "split"])
        for i, image in enumerate(pixels):
            name = f"part{i // PER_FOLDER:03d}/{i:08d}.png"
            if i % PER_FOLDER == 0:
                (folder / name).parent.mkdir()
            Image.fromarray(image).save(folder / name, compress_level=0)
            writer.writerow([name, "ill" if i // 2 % 3 == 0 else "well", f"{i // 2:08d}", splits[i // 2 % 10]])
    return folder / "table.csv"


LAYOUTS = {"npz": as_npz, "classes": as_classes, "table": as_table}


# Parts. Each imports what it needs, and returns the work that is measured.


def _start(data: str, side: int) -> Work:
    from balancer.core.settings import DataConfig
    from balancer.data.dataset import load_dataset

    config = DataConfig(path=data, image_size=side)
    return lambda: load_dataset(config)


def _audit(data: str, side: int) -> Work:
    from balancer.audit.findings import audit
    from balancer.core.settings import DataConfig
    from balancer.data.dataset import load_dataset

    config = DataConfig(path=data, image_size=side)
    return lambda: audit(load_dataset(config), config)


def _gan_steps(data: str, side: int) -> Work:
    import torch

    from balancer.core.settings import DataConfig, GanTrainConfig
    from balancer.data.dataset import load_dataset
    from balancer.gan.step import build_state, train_step
    from balancer.gan.trainer import next_batch, training_images

    config = GanTrainConfig(data=DataConfig(path=data, image_size=max(SMALLEST, side)))
    device = torch.device("cpu")

    def work() -> None:
        loaded = load_dataset(config.data)
        images, state = training_images(loaded, loaded.minority_class, device), build_state(config, device)
        for _ in range(STEPS):
            train_step(config, state, next_batch(config, images, state.step, device))

    return work


def _classifier_steps(data: str, side: int) -> Work:
    import torch

    from balancer.core.settings import DataConfig, TrainConfig
    from classifier.experiments.study import open_study
    from classifier.experiments.trial import run_trial

    config = TrainConfig(
        data=DataConfig(path=data, image_size=side),
        steps=STEPS,
        batch_size=64,
        evaluations=1,
        bn_statistics="running",
    )

    def work() -> None:
        study = open_study(config)
        run_trial(study, study.trials[0], torch.device("cpu"))

    return work


def _report(data: str, side: int) -> Work:
    import torch

    from balancer.core.settings import DataConfig, QualityConfig
    from balancer.data.dataset import load_dataset
    from balancer.metrics.feature_choice import Choice
    from balancer.quality.assess import assess
    from balancer.quality.sides import ImageSet

    config = QualityConfig(inception="off", two_sample=False)

    def work() -> None:
        loaded = load_dataset(DataConfig(path=data, image_size=side))

        def images_of(fold: str) -> ImageSet:
            of_class = loaded.indices(fold, loaded.minority_class)
            return ImageSet(loaded.images[of_class], [loaded.groups[i] for i in of_class], fold)

        train, held_out = images_of("train"), images_of("val")
        fake = np.random.default_rng(1).integers(0, 256, (SYNTHETIC, *train.images.shape[1:]), dtype=np.uint8)
        assess(config, train, held_out, fake, torch.device("cpu"), choice=Choice(None))

    return work


PARTS = {
    "first start": _start,
    "with the cache": _start,
    f"{STEPS} GAN steps": _gan_steps,
    f"{STEPS} classifier steps": _classifier_steps,
    f"report on {SYNTHETIC:,} images": _report,
    "audit": _audit,
}


def work_here(part: str, data: str, side: int) -> None:
    """Do a part in this process, and print what it took and held as JSON."""
    work = PARTS[part](data, side)
    before, peak, over = _held(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], _held())

    watcher = threading.Thread(target=watch, daemon=True)  # an error must end the process
    watcher.start()
    begin = _spent()
    work()
    seconds = _spent() - begin
    over.set()
    watcher.join()
    most = max(peak[0], _held())
    print(json.dumps({"seconds": seconds, "peak": most, "rise": most - before}))


def _held() -> float:
    """Return the MB that the process holds itself."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(part: str, data: Path, side: int, cache: Path) -> dict[str, float]:
    """Return what a part took and held in a fresh process."""
    child = [sys.executable, __file__, "--part", part, str(data), str(side)]
    done = subprocess.run(
        child, env={**os.environ, "BALANCER_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def draw(rows: list[Row], file: Path) -> None:
    """Draw time and memory against the number of images, both on logarithmic scales, a line for each part."""
    import matplotlib

    matplotlib.use("Agg")
    from balancer.reporting.plots import PALETTE, subplots

    figure, axes = subplots(1, 2, 10.0, 4.6)
    kinds = list(dict.fromkeys((row.layout, row.side) for row in rows))
    for column, (key, label) in enumerate((("seconds", "processor seconds"), ("rise", "MB beyond the imports"))):
        for k, part in enumerate(dict.fromkeys(row.part for row in rows)):
            for marks, kind in zip(("o-", "s--", "^:", "v-."), kinds, strict=False):
                of = sorted((r.images, getattr(r, key)) for r in rows if (r.part, (r.layout, r.side)) == (part, kind))
                label_of = part if kind == kinds[0] else None
                axes[0, column].plot(*zip(*of, strict=True), marks, color=PALETTE[k], label=label_of, markersize=4)
        sizes = np.array(sorted({row.images for row in rows}), dtype=float)
        axes[0, column].set(xscale="log", yscale="log", xlabel="images", ylabel=label)
        low = min(getattr(row, key) for row in rows if row.images == sizes[0])
        steady = max(low, 0.1) * sizes / sizes[0]
        axes[0, column].plot(sizes, steady, color="#999999", linewidth=0.8, label="in proportion")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Print a row for each set and each part of the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000, 500_000])
    parser.add_argument("--side", type=int, default=28, help="pixels")
    parser.add_argument("--layouts", nargs="+", default=["npz", "classes"], choices=LAYOUTS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, help="JSON file of the rows, to which new rows are added")
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("JSON", "PICTURE"), help="draw such a file, and no more")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return work_here(args.part[0], args.part[1], int(args.part[2]))
    if args.draw:
        return draw([Row(**row) for row in json.loads(args.draw[0].read_text())], args.draw[1])
    rows = [Row(**row) for row in json.loads(args.out.read_text())] if args.out and args.out.exists() else []
    print("| images | side | layout | part | processor s | images / s | peak MB | rise MB |")
    print("| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for n in args.images:
        for layout in args.layouts:
            with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
                begin = time.perf_counter()
                data = LAYOUTS[layout](noise(n, args.side), Path(place))
                print(f"{n} as {layout}: made in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
                for part in args.parts:
                    if part.endswith("GAN steps") and args.side < SMALLEST:  # decoded at this size beforehand
                        measured("with the cache", data, SMALLEST, Path(cache))
                    row = Row(n, args.side, layout, part, **measured(part, data, args.side, Path(cache)))
                    rows.append(row)
                    cells = [f"{n:,}", str(args.side), layout, part, f"{row.seconds:.1f}", f"{n / row.seconds:,.0f}"]
                    print(f"| {' | '.join(cells)} | {row.peak:.0f} | {row.rise:.0f} |", flush=True)
                    if args.out:
                        args.out.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return None


if __name__ == "__main__":
    main()
