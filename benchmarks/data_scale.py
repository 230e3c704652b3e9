"""How time and memory grow with the number of images: reading, decoding, the split, the start with a cache, a training.

Makes sets of noise at 28 px, as an archive, a folder for each class or a table of PNG files, and works on each in fresh
processes. Memory is the largest that the process held itself (RssAnon of Linux), sampled: the pages of memory maps
belong to the operating system, which takes them back. The rise is what was held beyond the imports. Time is that of
the processor, user and system, in all threads.

python benchmarks/data_scale.py --images 5000 50000 500000 --layouts npz classes table
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 28
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
PER_FOLDER = 10_000  # files in a folder of a table
CHILD = """
import json, resource, sys, threading
from pathlib import Path

def held():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

data, steps = sys.argv[1], int(sys.argv[2])
from balancer.core.settings import DataConfig, TrainConfig
from balancer.data.dataset import load_dataset
if steps:
    import torch
    from classifier.experiments.study import open_study
    from classifier.experiments.trial import run_trial
before, peak, over = held(), [0.0], threading.Event()

def watch():
    while not over.wait(0.02):
        peak[0] = max(peak[0], held())

thread = threading.Thread(target=watch, daemon=True)  # an error must end the process
thread.start()

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

begin = spent()
config = DataConfig(path=data, image_size=28)
if steps:
    study = open_study(TrainConfig(data=config, steps=steps, batch_size=64, evaluations=1, bn_statistics="running"))
    run_trial(study, study.trials[0], torch.device("cpu"))
    n = len(study.data.records)
else:
    n = len(load_dataset(config).records)
seconds = spent() - begin
over.set()
thread.join()
print(json.dumps({"images": n, "seconds": seconds, "before": before, "peak": max(peak[0], held())}))
"""


def images(n: int) -> np.ndarray:
    """Return noise (n, SIDE, SIDE) uint8, no two images alike."""
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)


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


def measured(data: Path, cache: Path, steps: int = 0) -> dict[str, float]:
    """Return what a fresh process took and held to read the data, or to train on them for some steps."""
    environment = {**os.environ, "BALANCER_CACHE": str(cache)}
    child = [sys.executable, "-c", CHILD, str(data), str(steps)]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Print a row for each set and each part of the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rows", type=int, default=100_000, help="of a table that is read and checked; 0: none")
    args = parser.parse_args()
    print("| images | layout | part | processor s | images / s | peak MB | rise MB |")
    print("| ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for n in args.images:
        for layout in args.layouts:
            with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
                begin = time.perf_counter()
                data = LAYOUTS[layout](images(n), Path(place))
                print(f"{n} as {layout}: made in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
                for part, steps in (("first start", 0), ("with the cache", 0), (f"{args.steps} steps", args.steps)):
                    m = measured(data, Path(cache), steps)
                    rate, rise = m["images"] / m["seconds"], m["peak"] - m["before"]
                    row = [f"{n:,}", layout, part, f"{m['seconds']:.1f}", f"{rate:,.0f}"]
                    print(f"| {' | '.join(row)} | {m['peak']:.0f} | {rise:.0f} |", flush=True)
    if args.rows:  # no image of it is decoded
        tables = Path(__file__).with_name("tables.py")
        subprocess.run([sys.executable, str(tables), "--rows", str(args.rows)], check=True)


if __name__ == "__main__":
    main()
