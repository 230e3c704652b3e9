"""The share of a command's time that goes into checksums and checks of what was read.

    python benchmarks/checks_cost.py [--data phantom] [--gan-steps 100] [--n 400] [--train-steps 200]

The commands run at the default sizes, but shorter than a real study, so a study's share is smaller. Every call of
SHA-256 is timed, whatever it serves, and every check of tensors, arrays and plain values.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SUMS = ("sha256", "file_digest")  # of hashlib
CHECKS = ("check_tensors", "check_arrays", "parse")  # of balancer.core.shapes


class Clock:
    """Adds up the time of some functions. A call inside another timed call counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added up."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - begin

        return wrapper

    def time_all(self, module: ModuleType, names: Sequence[str]) -> None:
        """Time functions of a module for whoever imports them from now on."""
        for name in names:
            setattr(module, name, self.timed(getattr(module, name)))


def main() -> None:
    """Run four commands and print the share of the checks in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--gan-steps", type=int, default=100)
    parser.add_argument("--n", type=int, default=400, help="synthetic images")
    parser.add_argument("--train-steps", type=int, default=200)
    options = parser.parse_args()
    clock = Clock()
    clock.time_all(hashlib, SUMS)

    from balancer.core import shapes

    clock.time_all(shapes, CHECKS)

    from balancer.cli import main as balancer
    from classifier.cli import main as classifier

    with tempfile.TemporaryDirectory(prefix="checks-") as folder:
        root = Path(folder)
        os.environ["BALANCER_CACHE"] = str(root / "cache")
        data = ["--data", options.data, "-q"]
        gan, images = str(root / "gan"), str(root / "images")
        steps = ["--steps", str(options.train_steps)]
        synthetic = ["--synthetic", images, "--synthetic-count", "all"]
        commands = {
            "gan-train": (balancer, ["gan-train", *data, "--steps", str(options.gan_steps), "--out", gan]),
            "synthesize": (balancer, ["synthesize", "-q", "--gan-run", gan, "--n", str(options.n), "--out", images]),
            "train, cache ready": (classifier, ["train", *data, *steps, "--out", str(root / "baseline")]),
            "train --regime gan": (
                classifier,
                ["train", *data, *steps, "--regime", "gan", *synthetic, "--out", str(root / "trial")],
            ),
        }
        for name, (program, words) in commands.items():
            clock.seconds, begin = 0.0, time.perf_counter()
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                program(words, standalone_mode=False)
            seconds = time.perf_counter() - begin
            print(
                f"{name:<20} {seconds:7.1f} s, checks {clock.seconds:6.3f} s, {clock.seconds / seconds:6.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
