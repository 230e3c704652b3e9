"""How long `classifier explain` takes on 100 images, for every method: from the shell, with imports, tests and page.

The bar is 20 s on one core with the default network at 64 px and the default method. On a busy machine the command
waits, so the load of the processors and the processor time stand beside the seconds.

    python benchmarks/explain.py MODEL.pt [--data DIR] [--methods gradcam,occlusion] [--images 100]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from balancer.core.environment import processor_name
from balancer.data.sampling import evenly
from balancer.reporting.document import Table
from balancer.reporting.numbers import fixed
from classifier.explain.methods import METHODS
from classifier.export.integers import open_data
from classifier.training.checkpoint import load_classifier

BAR, DEFAULT = 20.0, "gradcam"
COMMAND = [sys.executable, "-c", "from classifier.cli import main; main()", "explain"]


def write_images(model: Path, data: str | None, n: int, folder: Path) -> None:
    """Write test images, evenly spread over the classes, as PNG files at the working size."""
    dataset = open_data(load_classifier(model, torch.device("cpu")), data)
    test = dataset.indices("test")
    for i in test[evenly(len(test), n)]:
        Image.fromarray(dataset.images[i]).save(folder / f"{i:06d}.png")


def seconds(model: Path, images: Path, out: Path, *options: str) -> tuple[float, float]:
    """Return the seconds and the processor time of the command, in a process of its own with one thread."""
    begin, before = time.perf_counter(), os.times()
    words = [*COMMAND, str(model), str(images), "--out", str(out), "--threads", "1", "-q", *options]
    subprocess.run(words, check=True, capture_output=True)
    taken, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return taken, used


def main() -> int:
    """Print a row for each method; return 1 if the default method misses the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", help="of the training; by default where they were")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    rows, missed = [], False
    with tempfile.TemporaryDirectory() as name:
        images, out = Path(name, "images"), Path(name, "out")
        images.mkdir()
        write_images(args.model, args.data, args.images, images)
        for method in args.methods.split(","):
            load = os.getloadavg()[0]
            checked = seconds(args.model, images, out, "--method", method)
            plain = seconds(args.model, images, out, "--method", method, "--no-check")
            rows.append([method, *(fixed(s, 1) for s in (*checked, *plain, load))])
            missed = missed or (method == DEFAULT and checked[0] > BAR)
    print(f"{args.images} images, {processor_name()}, one thread, {os.cpu_count()} cores")
    print(
        Table(
            ["method", "s, with tests", "processor s", "s, without tests", "processor s", "load before"], rows
        ).to_text()
    )
    print(f"{DEFAULT} {'misses' if missed else 'keeps'} the bar of {BAR:.0f} s") if DEFAULT in args.methods else None
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
