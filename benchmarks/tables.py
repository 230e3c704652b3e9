"""How long a large table takes to be read and checked, and how much memory.

Makes a folder with as many files as the table has rows, all hard links to a few images, and reads the table in a fresh
process: every row, every file's existence, patients, classes. No image is decoded.

python benchmarks/tables.py --rows 100000
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CHILD = """
import resource, sys, time
from balancer.core.settings import DataConfig
from balancer.data.dataset import read_data
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
listing = read_data(DataConfig(path=sys.argv[1]))
seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(listing.records), len(listing.classes), f"{seconds:.2f}", after // 1024, (after - before) // 1024)
"""
PER_FOLDER = 10_000  # files; some file systems allow few hard links to one file, and few entries a folder


def write(folder: Path, rows: int, parquet: bool) -> Path:
    """Write files and their table; return the table."""
    rng = np.random.default_rng(0)
    names = [f"site{i % 5}/part{i // PER_FOLDER:03d}/{i:08d}_{i % 7:03d}.png" for i in range(rows)]
    source = folder / "image.png"
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if i % PER_FOLDER == 0:
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(source := folder / f"image{i}.png")
        os.link(source, folder / name)
    table = folder / "table.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.writer(handle, delimiter=";")
        writer.writerow(["Image Index", "Finding", "Patient ID", "site", "age", "view", "remark"])
        for i, name in enumerate(names):
            words = "a remark; with a delimiter"
            writer.writerow([name, "ill" if i % 4 else "well", f"{i // 3:08d}", f"site{i % 5}", i % 90, "PA", words])
    if not parquet:
        return table
    from pyarrow import csv as arrow
    from pyarrow import parquet as files

    content = arrow.read_csv(table, parse_options=arrow.ParseOptions(delimiter=";"))
    files.write_table(content, table.with_suffix(".parquet"))
    return table.with_suffix(".parquet")


def main() -> None:
    """Print rows, seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parquet", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        table = write(Path(place) / "data", args.rows, args.parquet)
        print(f"made in {time.perf_counter() - begin:.0f} s; {table.stat().st_size / 1e6:.1f} MB", flush=True)
        environment = {**os.environ, "BALANCER_CACHE": str(Path(place) / "cache")}
        child = [sys.executable, "-c", CHILD, str(table)]
        output = subprocess.run(child, env=environment, capture_output=True, text=True, check=True).stdout
        rows, classes, seconds, peak, grown = output.split()
    print(f"{rows} rows, {classes} classes: {seconds} s; peak memory {peak} MB, {grown} MB of them by reading")


if __name__ == "__main__":
    main()
