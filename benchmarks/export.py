"""What an export costs and gives: size, speed and AUROC of PyTorch, ONNX and 8-bit ONNX, and the time to an answer.

Speeds are medians of passes over 32 images and over one, in turns, with one thread. The time to an answer is that of
`classifier predict` on one image in a fresh process, the median of ``--starts``, with the peak of its memory (Linux).

    python benchmarks/export.py MODEL.pt... [--data DIR] [--starts 5]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from balancer.core.environment import processor_name
from balancer.data.dataset import Dataset
from balancer.reporting.document import Table
from balancer.reporting.grids import png_bytes
from balancer.reporting.numbers import fixed, short
from classifier.export import integers, writing
from classifier.export.runtime import open_onnx
from classifier.training.checkpoint import load_classifier
from classifier.training.prediction import predict

CPU = torch.device("cpu")
# The peak of a process since it became this program; what getrusage gives holds the parent's too.
PREDICT = """
import sys
from classifier.cli import main
try:
    main()
finally:
    print(open("/proc/self/status").read(), file=sys.stderr)
"""
Predict = Callable[[np.ndarray], np.ndarray]


def predictors(model: Path, files: dict[str, Path]) -> dict[str, Predict]:
    """Return what gives probabilities of images (n, H, W) uint8: PyTorch, and each ONNX file."""
    saved = load_classifier(model, CPU)
    opened = {title: open_onnx(file, "cpu", 1)[1] for title, file in files.items()}
    return {"PyTorch": lambda pixels: predict(saved.model, pixels, saved.config, CPU), **opened}


def speeds(by_title: dict[str, Predict], files: dict[str, Path], data: Dataset) -> Table:
    """Return size, speed and AUROC of each."""
    images = {fold: data.images[data.indices(fold)] for fold in ("val", "test")}
    batch, single = (
        integers.seconds([partial(f, images["val"][:n]) for f in by_title.values()]) for n in (integers.TIMED, 1)
    )
    rows = []
    for i, (title, probabilities) in enumerate(by_title.items()):
        aurocs = [
            short(integers.auroc(data.labels[data.indices(fold)], probabilities(pixels)), 4)
            for fold, pixels in images.items()
        ]
        size = fixed(files[title].stat().st_size / 1e6)
        rows.append([title, size, fixed(integers.TIMED / batch[i], 0), fixed(1000 * single[i]), *aurocs])
    return Table(["", "MB", "images/s", "ms", "AUROC val", "AUROC test"], rows)


def start(model: Path, image: Path) -> tuple[float, float]:
    """Return the seconds and the peak of memory in MB of `classifier predict` on one image, in a fresh process."""
    command = [sys.executable, "-c", PREDICT, "predict", str(model), str(image), "-q"]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    peak = re.search(r"VmHWM:\s*(\d+) kB", done.stderr)
    return seconds, int(peak[1]) / 1000 if peak else float("nan")


def main() -> None:
    """Print the tables of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--starts", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor_name()}, one thread")
    for model in args.models:
        with tempfile.TemporaryDirectory() as name:
            folder, image = Path(name), Path(name, "image.png")
            image.write_bytes(png_bytes(np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)))
            made = writing.export(model, "onnx", folder / "model.onnx", int8=True, data=args.data)
            if made.integers is None:
                raise RuntimeError("no 8-bit variant was made")
            onnx = {"ONNX": made.file, f"8-bit ONNX, {made.integers.chosen}": made.integers.file}
            files = {"PyTorch": model, **onnx}
            data = integers.open_data(load_classifier(model, CPU), args.data)
            print(f"\n{model}\n{made.integers.table().to_text()}\n")
            print(speeds(predictors(model, onnx), files, data).to_text(), end="\n\n")
            rows = []
            for title, file in files.items():
                seconds, megabytes = zip(*(start(file, image) for _ in range(args.starts)), strict=True)
                rows.append([title, fixed(statistics.median(seconds), 1), fixed(max(megabytes), 0)])
            print(Table(["predict one image", "s", "MB of memory"], rows).to_text())


if __name__ == "__main__":
    main()
