"""Run the three commands many times over, kill every fifth, and see that nothing is left behind.

    python benchmarks/soak.py [--runs 200] [--seed 0]

One process types the commands one after another, as a notebook or a service would; its memory and its open files must
stay flat. Every fifth command runs in a process of its own, which is killed with SIGKILL at a random moment and then
resumed. At the end there must be no lock, no temporary file and no unreadable run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

GAN = ["--image-size", "16", "--steps", "6", "--batch-size", "4"]
GAN += [part for name in ("generator_width", "discriminator_width") for part in ("--set", f"{name}=4")]
REPORT = ["--n", "40", "--inception-weights", "off", "--set", "kid_subsets=2", "--set", "two_sample=false"]
TRIALS = ["--image-size", "16", "--steps", "6", "--batch-size", "8", "--seeds", "2", "--regimes", "baseline,gan"]
TRIALS += ["--synthetic-count", "all", "--set", "evaluations=2"]
# The programs by name, then the arguments; OUT and the newest finished run of the command before are filled in.
COMMANDS = {
    "gan-train": ("balancer", GAN),
    "synthesize": ("balancer", ["--gan-run", "gan-train", *REPORT]),
    "ablate": ("classifier", ["--synthetic", "synthesize", *TRIALS]),
}
LEFTOVERS = (".lock", ".tmp")
DECODING = ".decoding-"
KILL_EVERY = 5


@dataclass
class Soak:
    """The state of a soak."""

    root: Path
    rng: random.Random
    newest: dict[str, Path] = field(default_factory=dict)  # the newest finished run of a command
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: list[float] = field(default_factory=list)
    open_files: list[int] = field(default_factory=list)
    killed: int = 0
    killed_before_end: int = 0


def arguments(soak: Soak, command: str, out: Path) -> tuple[str, list[str]]:
    """Return the program and its arguments for a new run."""
    program, options = COMMANDS[command]
    options = [str(soak.newest.get(option, option)) for option in options]
    data = [] if command == "synthesize" else ["--data", "phantom"]
    return program, [command, *options, *data, "--device", "cpu", "-q", "--out", str(out)]


def run_here(program: str, words: list[str]) -> int:
    """Run a command in this process and return its exit code."""
    if program == "balancer":
        from balancer.cli import main
    else:
        from classifier.cli import main
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            main(words, standalone_mode=False)
        except SystemExit as end:
            return int(end.code or 0)
        except click.ClickException as error:
            error.show()
            return error.exit_code
    return 0


def kill_once(soak: Soak, command: str, program: str, words: list[str]) -> None:
    """Run a command in a process of its own and kill the process at a random moment."""
    code = f"import sys; from {program}.cli import main; main()"
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    typical = statistics.median(soak.seconds[command]) + 6  # the imports come first
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(soak.rng.uniform(0.3, typical))
    soak.killed += 1
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        soak.killed_before_end += 1
    process.wait()
    print(f"  killed {command} after {time.monotonic() - begin:.1f} s", flush=True)


def one(soak: Soak, number: int) -> None:
    """Run one command, or run, kill and resume it."""
    command = list(COMMANDS)[number % len(COMMANDS)]
    out = soak.root / "runs" / f"{number:03d}-{command}"
    program, words = arguments(soak, command, out)
    if number % KILL_EVERY == KILL_EVERY - 1:
        kill_once(soak, command, program, words)
        if (out / "env.json").exists():
            words = [command, "--resume", str(out), "--device", "cpu", "-q"]
        elif out.exists():  # killed before the run could be resumed: it is replaced
            words = [*words, "--force"]
    begin = time.monotonic()
    exit_code = run_here(program, words)
    if exit_code or not (out / "done").exists():
        raise SystemExit(
            f"run {number}: {program} {' '.join(words)} ended with {exit_code}, done: {(out / 'done').exists()}"
        )
    soak.seconds.setdefault(command, []).append(time.monotonic() - begin)
    soak.newest[command] = out
    me = psutil.Process()
    soak.memory_mb.append(me.memory_info().rss / 1e6)
    soak.open_files.append(me.num_fds() if hasattr(me, "num_fds") else len(me.open_files()))


def leftovers(root: Path) -> list[str]:
    """Return the locks and temporary files below a folder."""
    return sorted(
        str(p.relative_to(root)) for p in root.rglob("*") if p.name.endswith(LEFTOVERS) or p.name.startswith(DECODING)
    )


def unreadable(soak: Soak) -> list[str]:
    """Return the runs that ``--resume`` does not call finished, and those with a JSON file that cannot be read."""
    from balancer.core.sealed import read_json

    bad = []
    for run in sorted((soak.root / "runs").iterdir()):
        command = run.name.partition("-")[2]
        if run_here(COMMANDS[command][0], [command, "--resume", str(run), "--device", "cpu", "-q"]):
            bad.append(run.name)
        for file in run.rglob("*.json"):
            try:
                read_json(file)
            except Exception as error:  # whatever it is, it is the finding
                bad.append(f"{file}: {error}")
    return bad


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--runs", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the moments of the kills.")
def main(runs: int, seed: int) -> None:
    """Soak, and print the findings as JSON."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        os.environ["BALANCER_CACHE"] = str(root / "cache")
        (root / "runs").mkdir()
        soak = Soak(root, random.Random(seed))
        begin = time.monotonic()
        for number in range(runs):
            one(soak, number)
            if number % 10 == 9:
                left = (time.monotonic() - begin) / (number + 1) * (runs - number - 1)
                state = f"{soak.memory_mb[-1]:.0f} MB, {soak.open_files[-1]} open files"
                print(f"{number + 1} of {runs} runs, {state}, {left / 60:.0f} min left", flush=True)
        remains, bad = leftovers(root), unreadable(soak)
    third, memory, files = max(1, runs // 3), soak.memory_mb, soak.open_files
    result = {
        "runs": runs,
        "killed": soak.killed,
        "killed_at_work": soak.killed_before_end,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "memory_mb": [round(statistics.median(part)) for part in (memory[third : 2 * third], memory[-third:])],
        "open_files": [int(statistics.median(part)) for part in (files[third : 2 * third], files[-third:])],
        "leftovers": remains,
        "unreadable": bad,
    }
    print(json.dumps(result, indent=2))
    if remains or bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
