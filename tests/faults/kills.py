"""Kill every command that writes at random moments, go on, and compare with runs that nobody disturbed.

    python tests/faults/kills.py [--kills 60] [--seed 0]

Each run has a decode cache of its own, so that the decoding is among what is killed. A command runs in a fork of this
process, which has imported everything: the kills hit the work and not the imports. Two undisturbed runs show which
values of the result files are the same in every run; a run that was killed and resumed must have these too.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TRAINING = "--image-size 16 --steps 6 --set evaluations=3 --set bn_statistics=running --device cpu -q"
QUICK = "--inception-weights off --set kid_subsets=2 --set kid_subset_size=4 --set two_sample=false --device cpu -q"
GAN = (
    "balancer gan-train --data {data} --image-size 16 --steps 24 --batch-size 4 --set snapshot_every=4"
    " --set log_every=4"
    " --set min_diversity=0 --set generator_width=2 --set discriminator_width=2 --set z_dim=5 --device cpu -q"
)
COMMANDS = {
    "gan-train": GAN,
    "synthesize": f"balancer synthesize --gan-run {{gan}} --n 60 {QUICK}",
    "evaluate": f"balancer evaluate --real {{data}}/train/NORMAL --fake {{data}}/test/NORMAL {QUICK}",
    "audit": "balancer audit --data {data} --device cpu -q",
    "ablate": f"classifier ablate --data {{data}} --regimes baseline,duplicate --seeds 2 --batch-size 8 {TRAINING}",
    "train": f"classifier train --data {{data}} --batch-size 8 {TRAINING}",
    "tune": f"classifier tune --data {{data}} --trials 3 --seeds 1 --jobs 1 {TRAINING}",
    "crossvalidate": f"classifier crossvalidate --data {{data}} --folds 2 --batch-size 8 {TRAINING}",
    "components": f"classifier components --data {{data}} --seeds 1 --batch-size 8 {TRAINING}",
}
# Two runs may agree by chance in times and in memory, and so in the seal of a row with them. How many steps this start
# took, and the number that a search gives a trial that was tried again, tell of the kill itself.
OF_ONE_START = re.compile(r"second|took|time|started|eta_s|memory_mb|steps_run|sha256$|\.trial$")
# A card names the start of its run, and the SHA-256 of checkpoints; what checkpoints hold is compared itself.
OF_ONE_CARD = re.compile(
    r"^MODEL_CARD\.json:\.(models\.|document\.sections\.(0\.table\.rows\.1\.1|13\.table\.rows\.\d+\.6)$)"
)
RESUME = "{program} {command} --resume {out} --device cpu -q"


@dataclass
class Outcome:
    """What the kills of one command came to."""

    kills: int = 0
    too_late: int = 0  # the command had ended before
    started_again: int = 0  # killed before there was a run to resume
    faults: list[str] = field(default_factory=list)


def write_data(root: Path) -> Path:
    """Write a Kaggle-layout folder of noise."""
    rng = np.random.default_rng(0)
    for split, fold, counts in ((0, "train", (24, 60)), (1, "val", (2, 2)), (2, "test", (10, 16))):
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            folder = root / fold / name
            folder.mkdir(parents=True)
            for i in range(counts[label]):
                number = 3 * i + split + 1
                file = f"person{number}_virus_{i}.png" if label else f"IM-{number:04d}-0001.png"
                Image.fromarray(rng.integers(0, 256, (32, 40), dtype=np.uint8)).save(folder / file)
    return root


def begin(words: list[str], cache: Path, log: Path) -> int:
    """Start a command in a fork of this process; return the number of the process."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.environ["BALANCER_CACHE"] = str(cache)
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        importlib.import_module(f"{words[0]}.cli").main(words[1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def wait(process: int) -> int:
    """Return the exit code of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def values(run: Path) -> dict[str, Any]:
    """Return every value of the JSON and CSV files and of the checkpoints of a run, by file and place in the file.

    A checkpoint's own SHA-256 is left out: the bytes of a pickle tell which equal texts were one object.
    """
    made: dict[str, Any] = {}
    for file in sorted(p for p in run.rglob("*") if p.suffix in {".json", ".jsonl", ".csv"}):
        name = file.relative_to(run).as_posix()
        text = file.read_text()
        if file.suffix == ".csv":
            made |= {f"{name}:{place}": cell for place, cell in flat(list(csv.DictReader(text.splitlines())), "")}
            continue
        rows = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [json.loads(text)]
        made |= {f"{name}:{place}": value for row in rows for place, value in flat(row, str(row.get("step", "")))}
    for file in sorted(p for p in run.rglob("*.pt") if not p.stem.endswith(".previous")):
        content = torch.load(file, map_location="cpu", weights_only=True)
        made |= {f"{file.relative_to(run).as_posix()}:{place}": value for place, value in flat(content, "")}
    return {
        place: value
        for place, value in made.items()
        if not OF_ONE_START.search(place) and not OF_ONE_CARD.search(place)
    }


def flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the plain values within a JSON value, each with its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        is_tensor = isinstance(value, torch.Tensor)
        yield (
            place,
            hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest() if is_tensor else value,
        )
        return
    for key, inner in items:
        yield from flat(inner, f"{place}.{key}")


def kill_at_random(command: str, kills: int, seed: int, root: Path, data: Path, gan: Path | None = None) -> Outcome:
    """Kill a command so often, each time another run of it; resume each run and compare."""
    words = COMMANDS[command].format(data=data, gan=gan).split()
    undisturbed, seconds = [], 0.0
    for name in ("first", "second"):
        start = time.monotonic()
        out = root / f"{command}-{name}"
        code = wait(begin([*words, "--out", str(out)], root / f"cache-{command}-{name}", root / f"{command}.log"))
        assert code == 0, (root / f"{command}.log").read_text()
        seconds = time.monotonic() - start
        undisturbed.append(values(out))
    same = {place: value for place, value in undisturbed[0].items() if undisturbed[1].get(place, ...) == value}
    outcome, rng = Outcome(), random.Random(f"{seed} {command}")
    for number in range(kills):
        out, cache = root / f"{command}-{number}", root / f"cache-{command}-{number}"
        log = root / f"{command}-{number}.log"
        process = begin([*words, "--out", str(out)], cache, log)
        time.sleep(rng.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        outcome.kills += 1
        outcome.too_late += wait(process) == 0
        again = [*words, "--out", str(out)]
        if (out / "env.json").exists():
            again = RESUME.format(program=words[0], command=command, out=out).split()
        else:
            outcome.started_again += 1
        code = wait(begin(again, cache, log))
        for fault in check(out, cache, code, same):
            outcome.faults.append(f"{command} {number}: {fault}; see {log}")
        if not outcome.faults:
            shutil.rmtree(out)
            shutil.rmtree(cache)
    return outcome


def check(out: Path, cache: Path, code: int, same: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a run that was killed and resumed."""
    if code or not (out / "done").exists():
        yield f"ended with {code}, done: {(out / 'done').exists()}"
        return
    now = values(out)
    differing = [place for place, value in same.items() if now.get(place, ...) != value]
    if differing:
        yield f"{len(differing)} values differ, first {differing[0]}"
    left = [p for folder in (out, cache) for p in folder.rglob(".*") if p.name.endswith((".tmp", ".lock"))]
    if left:
        yield f"left behind: {', '.join(map(str, left))}"


def main() -> None:
    """Run the kills of all commands and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=60, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    data, each, faults, total = write_data(root / "data"), -(-given.kills // len(COMMANDS)), [], 0
    for module in ("balancer.api", "classifier.api", "classifier.inference", "classifier.tuning.search"):
        importlib.import_module(module)
    for command in COMMANDS:
        outcome = kill_at_random(command, each, given.seed, root, data, root / "gan-train-first")
        print(f"{command}: {outcome.kills} kills, {outcome.too_late} too late, {outcome.started_again} before the run")
        faults, total = faults + outcome.faults, total + outcome.kills
    print("\n".join([*faults, f"{len(faults)} of {total} went wrong"]))
    if not faults:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
