"""Seconds of each command's dry run, in a fresh process, with a warm cache and with an empty one.

First, small runs are made for the commands that take one. With ``--real`` each command then does its work, and the
estimate stands beside the time that the work took. Processor time is what a quiet core would need; the time that
passed counts the wait for other programs too.

    BALANCER_DATA=DIR python benchmarks/dry_runs.py [--real] [--only WORD] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from balancer.core.config import data_path
from balancer.core.environment import processor_name
from balancer.core.settings import DataConfig
from balancer.data.dataset import read_data
from balancer.reporting.document import Table
from balancer.reporting.numbers import fixed

LIMIT = 10.0  # seconds
GAN = "balancer gan-train --steps 60 --set snapshot_every=30 --set min_diversity=0 --out"
SYNTHESIS = "balancer synthesize --inception-weights off --set two_sample=false --gan-run gan --out"
STUDY = "classifier ablate --regimes all --seeds 2 --synthetic synthesis --out"
TRAINING = "classifier train --regime augment --out"
SETUP = {
    "gan": f"{GAN} gan",
    "synthesis": f"{SYNTHESIS} synthesis",
    "study": f"{STUDY} study --steps 60",
    "training": f"{TRAINING} training --steps 60",
}
COMMANDS = (  # {images} is a folder of images, {real} and {training} are those of a class
    "balancer gan-train",
    f"{GAN} gan-small",
    "balancer gan-train --config gpu --device cpu",
    f"{SYNTHESIS} synthesis-small",
    "balancer synthesize --inception-weights off --gan-run gan --n 600 --out synthesis-report",
    "balancer evaluate --real {real} --training {training} --fake synthesis --inception-weights off --out evaluation",
    "balancer audit --out audit",
    "balancer export gan --to onnx --force",
    "balancer export gan --to safetensors --force",
    "balancer fetch pneumoniamnist --to fetched",
    f"{STUDY} study-small --steps 60",
    "classifier ablate --regimes all,controls --seeds 5 --synthetic synthesis",
    "classifier ablate --regimes baseline,augment --model resnet18 --image-size 224",
    f"{TRAINING} training-small --steps 120",
    "classifier tune --trials 3 --steps 60 --out search",
    "classifier crossvalidate --folds 3 --steps 60 --out folds",
    "classifier components --config seeds/s1_cnn28 --seeds 2 --steps 60 --set stages=[] --out parts",
    "classifier reproduce s1_cnn28 --share .01 --seeds 1 --out systems",
    "classifier reproduce all --seeds 1",
    "classifier thresholds study --out thresholds",
    "classifier ensemble study --out ensemble",
    "classifier compare small_cnn resnet18 training/model.pt --image-size 64",
    "classifier evaluate training/model.pt",
    "classifier predict training {images}",
    "classifier explain training {images} --out explained",
    "classifier explain study --out explained-study",
    "classifier export training --to onnx --force",
    "classifier export training --to onnx --int8 --out whole-numbers.onnx --force",
    "classifier export training --to torch-export --force",
    "classifier serve study --port 0",
)
NOT_FOR_REAL = ("fetch", "serve", "--config gpu", "reproduce all", "resnet18 --image-size", "--seeds 5")


@dataclass(frozen=True)
class Timed:
    """A command that has ended."""

    seconds: float
    processor_seconds: float  # user and system
    code: int
    stdout: str
    stderr: str


def run(command: str, *more: str, cache: Path | None = None) -> Timed:
    """Run a command line in a fresh process."""
    program, *words = command.split()
    code = f"import sys; sys.argv[0] = {program!r}; from {program}.cli import main; main()"
    environment = {**os.environ, **({"BALANCER_CACHE": str(cache)} if cache else {})}
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *more], capture_output=True, text=True, env=environment, check=False
    )
    seconds, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Timed(seconds, used, done.returncode, done.stdout, done.stderr)


def failed(command: str, timed: Timed) -> str:
    """Return what a command said when it failed."""
    return f"{command}: exit code {timed.code}: {timed.stderr.strip().splitlines()[-1:]}"


def row(command: str, place: Path, do_work: bool) -> list[str]:
    """Return the times of a command's dry run and, if asked for, of its work beside the estimate."""
    warm = run(command, "--dry-run", "--json")
    cold = run(command, "--dry-run", "--json", cache=Path(tempfile.mkdtemp(dir=place)))
    for timed in (warm, cold):
        if timed.code:
            return [failed(command, timed), *[""] * 6]
    cells = [fixed(t, 1) for each in (warm, cold) for t in (each.processor_seconds, each.seconds)]
    estimated = json.loads(warm.stdout)["estimated_seconds"]
    guess = "" if estimated is None else fixed(estimated, 1)
    if not do_work or any(words in command for words in NOT_FOR_REAL):
        return [command, *cells, guess, "", ""]
    work = run(command, "-q")
    if work.code:
        return [command, *cells, guess, failed("", work), ""]
    return [command, *cells, guess, fixed(work.seconds, 1), fixed(estimated / work.seconds, 2)]


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="do the work too, and compare it with the estimate")
    parser.add_argument("--only", default="", help="commands that hold this word")
    parser.add_argument("--folder", type=Path, help="where the runs are made, and kept for the next time")
    args = parser.parse_args()
    source = read_data(DataConfig(path=data_path(os.environ.get("BALANCER_DATA")))).root
    names = {"images": source / "test/NORMAL", "real": source / "test/NORMAL", "training": source / "train/NORMAL"}
    place = args.folder or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    for name, command in SETUP.items():
        if not Path(name, "done").exists():
            made = run(command, "-q")
            if made.code:
                raise SystemExit(failed(command, made))
    print(f"{source}, {processor_name()}, {len(os.sched_getaffinity(0))} processors", flush=True)
    header = ["command", "warm: processor s", "s", "cold: processor s", "s", "estimate s", "took s", "ratio"]
    rows = []
    for command in COMMANDS:
        if args.only in command:
            rows.append(row(command.format(**names), place, args.real))
            print(*rows[-1], sep="  ", flush=True)
    print(Table(header, rows).to_text())


if __name__ == "__main__":
    main()
